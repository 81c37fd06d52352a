use chrono::{FixedOffset, NaiveDateTime, Utc};

use super::*;

/// 2026-11-22T11:30:48.000Z.
const NOON: Millis = 1_795_347_048_000;

fn utc(text: &str) -> Option<Millis> {
    Reading::of(text)?.instant(&Utc)
}

#[test]
fn every_form_that_clients_send_is_read() {
    for (text, expected) in [
        ("2026-11-22T11:30:48.000Z", NOON),
        ("2026-11-22T11:30:48Z", NOON),
        ("2026-11-22T13:30:48.123+02:00", NOON + 123),
        ("2026-11-22T11:30:48.123+0000", NOON + 123),
        ("2026-11-22T11:30:48.123456789Z", NOON + 123),
        ("2026-11-22T11:30Z", NOON - 48_000),
        ("Sun Nov 22 2026 13:30:48 GMT+0200 (South Africa Standard Time)", NOON),
        ("Sun, 22 Nov 2026 11:30:48 GMT", NOON),
        ("Nov 22, 2026 11:30:48 AM UTC", NOON),
        ("22 November 2026 11:30:48 Z", NOON),
        ("2026-11-22 11:30:48+00:00", NOON),
        ("Sun Nov 22 11:30:48 UTC 2026", NOON),
        ("+002026-11-22T11:30:48Z", NOON),
    ] {
        assert_eq!(Reading::of(text), Some(Reading::Instant(expected)), "{text}");
    }
}

#[test]
fn a_date_without_a_zone_is_local_time() {
    let local = NaiveDateTime::parse_from_str("2026-11-22 11:30:48.123", "%Y-%m-%d %H:%M:%S%.f").unwrap();

    for text in [
        "2026-11-22 11:30:48.123456",
        "2026-11-22T11:30:48.123",
        "Nov 22, 2026 11:30:48.123 AM",
        "11/22/2026 11:30:48.123",
        "2026/11/22 11:30:48.123",
    ] {
        assert_eq!(Reading::of(text), Some(Reading::Local(local)), "{text}");
    }
    let south_africa = FixedOffset::east_opt(7200).unwrap();
    assert_eq!(Reading::Local(local).instant(&Utc), Some(NOON + 123));
    assert_eq!(
        Reading::Local(local).instant(&south_africa),
        Some(NOON + 123 - 7_200_000)
    );
}

#[test]
fn a_day_alone_is_utc_in_iso_form_and_local_otherwise() {
    assert_eq!(Reading::of("2026-11-22"), Some(Reading::Instant(NOON - 41_448_000)));
    assert_eq!(Reading::of("2026-11"), Reading::of("2026-11-01"));
    assert_eq!(Reading::of("2026"), Reading::of("2026-01-01"));
    assert!(matches!(Reading::of("11/22/2026"), Some(Reading::Local(_))));
}

#[test]
fn hours_run_from_one_to_twelve_with_am_and_pm() {
    assert_eq!(utc("Nov 22, 2026 12:00:00 AM"), utc("2026-11-22T00:00:00Z"));
    assert_eq!(utc("Nov 22, 2026 12:00:00 PM"), utc("2026-11-22T12:00:00Z"));
    assert_eq!(utc("Nov 22, 2026 1:05:00 pm"), utc("2026-11-22T13:05:00Z"));
    assert_eq!(utc("Nov 22, 2026 13:00:00 PM"), None);
}

#[test]
fn what_a_free_form_date_leaves_out_is_one() {
    let day = |text| {
        Reading::of(text)
            .and_then(|reading| reading.instant(&Utc))
            .and_then(to_iso)
    };

    assert_eq!(day("Nov 2026").as_deref(), Some("2026-11-01T00:00:00.000Z"));
    assert_eq!(day("22 Nov").as_deref(), Some("2001-11-22T00:00:00.000Z"));
    assert_eq!(day("99").as_deref(), Some("1999-01-01T00:00:00.000Z"));
    assert_eq!(day("5").as_deref(), Some("2001-05-01T00:00:00.000Z"));
}

#[test]
fn what_is_no_date_is_refused() {
    for text in [
        "",
        "nope",
        "2026-13-01",
        "2026-11-22T25:00:00Z",
        "2026-11-22T11:60:00Z",
        "2026-11-32",
        "Nov",
        "22 Nov 2026 11:30:48 soon",
        "1 2 3 4",
        "(",
        "a1",
        "é",
    ] {
        assert_eq!(utc(text), None, "{text}");
    }
    assert_eq!(utc(&"1".repeat(300)), None);
}

#[test]
fn dates_print_as_in_javascript() {
    for (instant, text) in [
        (0, "1970-01-01T00:00:00.000Z"),
        (NOON + 7, "2026-11-22T11:30:48.007Z"),
        (-1, "1969-12-31T23:59:59.999Z"),
        (951_782_400_000, "2000-02-29T00:00:00.000Z"),
        (-62_198_755_200_000, "-000001-01-01T00:00:00.000Z"),
        (253_402_300_800_000, "+010000-01-01T00:00:00.000Z"),
        (LIMIT, "+275760-09-13T00:00:00.000Z"),
    ] {
        assert_eq!(to_iso(instant).as_deref(), Some(text));
    }
    assert_eq!(to_iso(LIMIT + 1), None);
}

#[test]
fn what_is_printed_is_read_back() {
    for instant in (-2_000_000_000_000..4_000_000_000_000).step_by(86_400_000 * 17 + 12_345) {
        assert_eq!(utc(&to_iso(instant).unwrap()), Some(instant));
    }
}
