use std::cell::Cell;
use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::sticky::Sticky;
use super::*;

const ALL: [Schedule; 9] = [
    Schedule::Rr,
    Schedule::Wrr,
    Schedule::Lc,
    Schedule::Wlc,
    Schedule::P2c,
    Schedule::Sh,
    Schedule::Mh,
    Schedule::Random,
    Schedule::First,
];

/// Members at 10.0.0.1:5000, 10.0.0.2:5000, ... with these weights.
fn members(weights: &[u32]) -> Vec<Member> {
    let address = |place: u32| SocketAddr::from((Ipv4Addr::from_bits(0x0a00_0000 + place), 5000));
    (1..)
        .zip(weights)
        .map(|(place, &weight)| Member {
            key: member_key(address(place)),
            weight,
        })
        .collect()
}

fn client(number: u32) -> u64 {
    client_key(Ipv4Addr::from_bits(0xc0a8_0000 + number).into())
}

/// Picks `count` times with everybody idle.
fn picks(table: &Table, turn: &mut Turn, count: u32) -> Vec<usize> {
    (0..count)
        .map(|number| table.pick(turn, client(number), |_| Some(0)).unwrap())
        .collect()
}

fn counts(picks: &[usize], members: usize) -> Vec<usize> {
    (0..members)
        .map(|member| picks.iter().filter(|&&pick| pick == member).count())
        .collect()
}

#[test]
fn rr_follows_the_cycle_to_the_connection() {
    let table = Table::new(Schedule::Rr, &members(&[1, 1, 1, 1]));
    let picks = picks(&table, &mut Turn::new(1), 10);
    assert_eq!(picks, [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]);
}

#[test]
fn rr_goes_on_behind_the_last_when_members_come_and_go() {
    let all = members(&[1, 1, 1, 1]);
    let mut turn = Turn::new(1);
    assert_eq!(picks(&Table::new(Schedule::Rr, &all), &mut turn, 2), [0, 1]);

    // The first goes: the third, now second in the list, is next.
    assert_eq!(picks(&Table::new(Schedule::Rr, &all[1..]), &mut turn, 2), [1, 2]);
    // It comes back: after the fourth it is the first's turn.
    assert_eq!(picks(&Table::new(Schedule::Rr, &all), &mut turn, 3), [0, 1, 2]);
    // The very one that was last goes.
    assert_eq!(
        picks(&Table::new(Schedule::Rr, &[all[0], all[1], all[3]]), &mut turn, 2),
        [2, 0]
    );
}

#[test]
fn rr_passes_over_a_member_without_room_and_keeps_the_order() {
    let table = Table::new(Schedule::Rr, &members(&[1, 1, 1]));
    let mut turn = Turn::new(1);
    let picks: Vec<_> = (0..4)
        .map(|_| table.pick(&mut turn, 0, |index| (index != 1).then_some(0)).unwrap())
        .collect();
    assert_eq!(picks, [0, 2, 0, 2]);
}

#[test]
fn a_second_table_of_the_same_members_does_not_disturb_the_turn() {
    let all = members(&[3, 1, 2]);
    let mut turn = Turn::new(1);
    let one: Vec<_> = (0..12)
        .map(|_| picks(&Table::new(Schedule::Wrr, &all), &mut turn, 1)[0])
        .collect();
    assert_eq!(one, picks(&Table::new(Schedule::Wrr, &all), &mut Turn::new(1), 12));
}

#[test]
fn wrr_gives_each_its_share_and_spreads_it() {
    let table = Table::new(Schedule::Wrr, &members(&[5, 1, 1]));
    let picks = picks(&table, &mut Turn::new(1), 7);
    assert_eq!(counts(&picks, 3), [5, 1, 1]);
    let mut twice = picks.clone();
    twice.extend(&picks);
    assert!(
        twice.windows(4).all(|window| window.iter().any(|&pick| pick != 0)),
        "{picks:?}"
    );
}

#[test]
fn weights_too_large_for_the_cycle_keep_their_proportions() {
    let table = Table::new(Schedule::Wrr, &members(&[6_553_500, 6_553_400, 100]));
    let counts = counts(&picks(&table, &mut Turn::new(1), 65_536), 3);
    assert!(
        counts[0].abs_diff(counts[1]) <= 2 && (1..=3).contains(&counts[2]),
        "{counts:?}"
    );
}

#[test]
fn weights_do_not_count_where_ipvs_defines_none() {
    let counted = |schedule| [0, 1, 7].map(|weight| counted_weight(schedule, weight));
    assert_eq!(counted(Schedule::Rr), [0, 1, 1]);
    assert_eq!(counted(Schedule::Lc), [0, 1, 1]);
    assert_eq!(counted(Schedule::Wrr), [0, 1, 7]);
    assert_eq!(counted(Schedule::Wlc), [0, 1, 7]);
    assert_eq!(counted(Schedule::Mh), [0, 1, 7]);
}

#[test]
fn least_connections_takes_turns_among_equals() {
    let table = Table::new(Schedule::Lc, &members(&[1, 1, 1]));
    assert_eq!(picks(&table, &mut Turn::new(1), 6), [0, 1, 2, 0, 1, 2]);

    // Also when there are many: everybody has been used once before anybody is used twice.
    let many = Table::new(Schedule::Lc, &members(&[1; 1000]));
    let mut seen = picks(&many, &mut Turn::new(1), 1000);
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 1000);
}

#[test]
fn wlc_fills_members_in_proportion_to_their_weights() {
    let table = Table::new(Schedule::Wlc, &members(&[1, 2, 5]));
    let loads = [const { Cell::new(0_u32) }; 3];
    let mut turn = Turn::new(1);
    for _ in 0..800 {
        let picked = table.pick(&mut turn, 0, |index| Some(loads[index].get())).unwrap();
        loads[picked].set(loads[picked].get() + 1);
    }
    assert_eq!(loads.map(|load| load.get()), [100, 200, 500]);
}

/// Connections come and go at random on a thousand members; says how far the busiest is above the least busy.
fn spread_with_a_thousand(schedule: Schedule, seed: u64) -> u32 {
    let table = Table::new(schedule, &members(&[1; 1000]));
    let loads: Vec<Cell<u32>> = (0..1000).map(|_| Cell::new(0)).collect();
    let (mut turn, mut dice, mut live) = (Turn::new(seed), Dice(seed), Vec::new());
    for step in 0..60_000 {
        let picked = table.pick(&mut turn, 0, |index| Some(loads[index].get())).unwrap();
        loads[picked].set(loads[picked].get() + 1);
        live.push(picked);
        if step >= 20_000 {
            let gone = live.swap_remove(below(live.len(), dice.roll()));
            loads[gone].set(loads[gone].get() - 1);
        }
    }
    let loads = loads.iter().map(Cell::get);
    loads.clone().max().unwrap() - loads.min().unwrap()
}

#[test]
fn least_connections_keeps_a_thousand_members_level() {
    // About twenty connections each. A draw of two is the yardstick for what knowing less costs.
    let (least, drawn) = (
        spread_with_a_thousand(Schedule::Lc, 5),
        spread_with_a_thousand(Schedule::P2c, 5),
    );
    assert!(least <= 4, "{least}");
    assert!(least < drawn, "{least} {drawn}");
}

#[test]
fn two_choices_avoid_the_busy_and_use_everybody() {
    let table = Table::new(Schedule::P2c, &members(&[1; 10]));
    let mut turn = Turn::new(9);
    let picks: Vec<_> = (0..10_000)
        .map(|_| table.pick(&mut turn, 0, |index| Some(u32::from(index == 3))).unwrap())
        .collect();
    let counts = counts(&picks, 10);
    assert_eq!(counts[3], 0, "of two, the busy one is never the better");
    for (index, &count) in counts.iter().enumerate().filter(|&(index, _)| index != 3) {
        // 1/9 of the draws; five standard deviations are about 157.
        assert!(count.abs_diff(1111) < 160, "{index}: {count}");
    }
}

#[test]
fn random_follows_the_weights() {
    let table = Table::new(Schedule::Random, &members(&[1, 3, 6]));
    let counts = counts(&picks(&table, &mut Turn::new(77), 100_000), 3);
    for (count, expected) in counts.iter().zip([10_000, 30_000, 60_000]) {
        assert!(count.abs_diff(expected) < 800, "{counts:?}");
    }
    let other = picks(&table, &mut Turn::new(78), 50);
    assert_ne!(
        picks(&table, &mut Turn::new(77), 50),
        other,
        "another seed, other picks"
    );
}

#[test]
fn first_uses_the_next_only_when_there_is_no_room() {
    let table = Table::new(Schedule::First, &members(&[0, 1, 1]));
    let mut turn = Turn::new(1);
    assert_eq!(table.pick(&mut turn, 0, |_| Some(9)), Some(1));
    assert_eq!(table.pick(&mut turn, 0, |index| (index != 1).then_some(0)), Some(2));
}

#[test]
fn hashing_schedules_send_a_client_to_the_same_member_and_follow_the_weights() {
    for schedule in [Schedule::Sh, Schedule::Mh] {
        let table = Table::new(schedule, &members(&[1, 1, 2]));
        let picks_of_all = picks(&table, &mut Turn::new(1), 40_000);
        assert_eq!(picks_of_all, picks(&table, &mut Turn::new(2), 40_000));
        for (count, expected) in counts(&picks_of_all, 3).iter().zip([10_000, 10_000, 20_000]) {
            assert!(count.abs_diff(expected) < 600, "{schedule}: {count} of {expected}");
        }
        // Only the clients of a member without room move, and not all of them to the same other.
        let mut turn = Turn::new(1);
        let mut moved_to = HashMap::new();
        for (number, &before) in (0..).zip(&picks_of_all) {
            let now = table
                .pick(&mut turn, client(number), |index| (index != 0).then_some(0))
                .unwrap();
            if before == 0 {
                *moved_to.entry(now).or_insert(0) += 1;
            } else {
                assert_eq!(now, before);
            }
        }
        assert!(moved_to[&1] > 2000 && moved_to[&2] > 4000, "{moved_to:?}");
    }
}

#[test]
fn maglev_is_the_same_everywhere() {
    // These picks are what makes two balancers of different versions agree: they must never change.
    let table = Table::new(Schedule::Mh, &members(&[1, 1, 1, 2]));
    assert_eq!(picks(&table, &mut Turn::new(1), 24), MAGLEV_PICKS);
}

const MAGLEV_PICKS: [usize; 24] = [1, 3, 3, 2, 3, 2, 3, 2, 2, 1, 0, 3, 3, 0, 1, 2, 0, 3, 2, 0, 3, 1, 0, 1];

#[test]
fn maglev_does_not_depend_on_the_order_of_the_list() {
    let all = members(&[1, 2, 3, 1, 1]);
    let reversed: Vec<_> = all.iter().rev().copied().collect();
    let one = picks(&Table::new(Schedule::Mh, &all), &mut Turn::new(1), 5000);
    let other = picks(&Table::new(Schedule::Mh, &reversed), &mut Turn::new(1), 5000);
    assert!(
        one.iter()
            .zip(&other)
            .all(|(&one, &other)| all[one].key == reversed[other].key)
    );
}

#[test]
fn maglev_moves_few_clients_when_a_member_goes() {
    let all = members(&[1; 10]);
    let before = picks(&Table::new(Schedule::Mh, &all), &mut Turn::new(1), 20_000);
    let after = picks(&Table::new(Schedule::Mh, &all[..9]), &mut Turn::new(1), 20_000);
    let moved = before
        .iter()
        .zip(&after)
        .filter(|&(&before, &after)| before != 9 && before != after)
        .count();
    // Its own tenth has to move; of the others, a few hundredths.
    assert!(moved < 1000, "{moved}");
    assert!(
        counts(&after, 9).iter().all(|count| count.abs_diff(2222) < 300),
        "{:?}",
        counts(&after, 9)
    );
}

#[test]
fn an_address_has_one_key_in_either_form() {
    let v4 = Ipv4Addr::new(192, 0, 2, 1);
    assert_eq!(client_key(v4.into()), client_key(v4.to_ipv6_mapped().into()));
    assert_ne!(client_key(v4.into()), client_key(Ipv4Addr::new(192, 0, 2, 2).into()));
    assert_ne!(
        client_key(Ipv6Addr::LOCALHOST.into()),
        client_key(Ipv6Addr::from_bits(1 << 64).into())
    );
}

#[test]
fn a_client_sticks_until_its_time_is_over() {
    let start = Instant::now();
    let mut sticky = Sticky::new(Duration::from_secs(300), 100);
    let client: IpAddr = Ipv4Addr::new(192, 0, 2, 1).into();
    sticky.put(client, 7, start);

    let later = start + Duration::from_secs(299);
    assert_eq!(sticky.get(client, later), Some(7));
    assert_eq!(
        sticky.get(Ipv4Addr::new(192, 0, 2, 1).to_ipv6_mapped().into(), later),
        Some(7)
    );
    sticky.put(client, 7, later);
    assert_eq!(
        sticky.get(client, later + Duration::from_secs(299)),
        Some(7),
        "seen again, remembered anew"
    );
    assert_eq!(sticky.get(client, later + Duration::from_secs(300)), None);
    sticky.put(client, 8, later);
    assert_eq!((sticky.get(client, later), sticky.len()), (Some(8), 1));
}

#[test]
fn a_full_table_gives_up_clients_that_were_away_for_long() {
    let start = Instant::now();
    let mut sticky = Sticky::new(Duration::from_secs(300), 1000);
    let client = |number: u32| IpAddr::from(Ipv4Addr::from_bits(number));
    for number in 0..50_000 {
        // Client 5 comes back all the time.
        let now = start + Duration::from_millis(u64::from(number));
        sticky.put(client(5), 5, now);
        sticky.put(client(1000 + number), u64::from(number), now);
        assert_eq!(sticky.get(client(5), now), Some(5));
    }
    assert_eq!(sticky.len(), 1000);
    let now = start + Duration::from_secs(50);
    let recent = (49_600..50_000)
        .filter(|&number| sticky.get(client(1000 + number), now).is_some())
        .count();
    assert_eq!(recent, 400, "the newest are there");
}

proptest! {
    #[test]
    fn a_pick_has_weight_and_room_and_is_made_if_anybody_has(
        schedule in prop::sample::select(&ALL[..]),
        weights in prop::collection::vec(0_u32..5, 0..150),
        rooms in prop::collection::vec(prop::option::of(0_u32..4), 150),
        seed: u64,
    ) {
        let table = Table::new(schedule, &members(&weights));
        let mut turn = Turn::new(seed);
        let usable = |index: usize| weights[index] > 0 && rooms[index].is_some();
        for number in 0..20 {
            match table.pick(&mut turn, mix(seed ^ number), |index| rooms[index]) {
                Some(index) => prop_assert!(usable(index), "{}", index),
                None => prop_assert!(!(0..weights.len()).any(usable)),
            }
        }
    }

    #[test]
    fn wrr_is_exact_in_a_round_and_even_within_it(weights in prop::collection::vec(1_u32..30, 1..12)) {
        let table = Table::new(Schedule::Wrr, &members(&weights));
        let total: u32 = weights.iter().sum();
        let picks = picks(&table, &mut Turn::new(1), total * 2);
        for (index, &weight) in weights.iter().enumerate() {
            prop_assert_eq!(counts(&picks[..total as usize], weights.len())[index] as u32, weight);
            let mut seen = 0;
            for (place, &pick) in (1..).zip(&picks) {
                seen += u32::from(pick == index);
                let due = f64::from(place) * f64::from(weight) / f64::from(total);
                prop_assert!((f64::from(seen) - due).abs() <= 2.5, "member {}, pick {}: {} of {}", index, place, seen, due);
            }
        }
    }

    #[test]
    fn lc_picks_one_of_the_least_busy(
        steps in prop::collection::vec((any::<bool>(), any::<u64>()), 1..300),
        count in 1_usize..=32,
    ) {
        let table = Table::new(Schedule::Lc, &members(&vec![1; count]));
        let mut turn = Turn::new(3);
        let loads: Vec<Cell<u32>> = (0..count).map(|_| Cell::new(0)).collect();
        for (arrives, bits) in steps {
            if arrives {
                let picked = table.pick(&mut turn, 0, |index| Some(loads[index].get())).unwrap();
                prop_assert_eq!(loads[picked].get(), loads.iter().map(Cell::get).min().unwrap());
                loads[picked].set(loads[picked].get() + 1);
            } else {
                let gone = &loads[below(count, bits)];
                gone.set(gone.get().saturating_sub(1));
            }
        }
    }
}
