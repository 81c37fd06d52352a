use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;

const STEPS: usize = 100_000;

fn pattern(text: &str) -> Pattern {
    Pattern::compile(text, STEPS).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn matches(text: &str, subject: &str) -> bool {
    pattern(text).is_match(subject)
}

#[test]
fn patterns_are_unanchored_and_case_sensitive() {
    assert!(matches("/test", "/a/test/b"));
    assert!(!matches("^/test$", "/a/test"));
    assert!(!matches("/TEST", "/test"));
    assert!(matches("", "anything"));
}

#[test]
fn the_dollar_sign_means_the_very_end() {
    assert!(matches("a$", "a"));
    assert!(!matches("a$", "a\n"));
    assert!(!matches("^b", "a\nb"));
}

#[test]
fn classes_are_javascripts() {
    for (text, yes, no) in [
        (r"^\d$", "7", "\u{663}"),
        (r"^\w$", "_", "é"),
        (r"^\s$", "\u{FEFF}", "\u{85}"),
        (r"^\S$", "\u{85}", "\u{A0}"),
        (r"^.$", "\u{85}", "\u{2028}"),
        (r"^[^]$", "\n", ""),
        (r"^[\d-x]$", "-", "w"),
        (r"^[\b]$", "\u{8}", "b"),
        (r"^[a\]]$", "]", "b"),
        (r"^[[]$", "[", "]"),
        (r"^[&&a]$", "&", "b"),
        (r"^[a-]$", "-", "b"),
        (r"^[^\W]$", "a", "-"),
        (r"\bé", "aé", "é"),
    ] {
        assert!(matches(text, yes), "{text} {yes:?}");
        assert!(!matches(text, no), "{text} {no:?}");
    }
    assert!(!matches("[]", "anything"));
}

#[test]
fn escapes_are_javascripts() {
    for (text, yes) in [
        (r"^\/fhir\/$", "/fhir/"),
        (r"^\x41\u0042\cJ\0$", "AB\n\0"),
        (r"^\x4\u12\c$", "x4u12\\c"),
        (r"^\uD83D\uDE00$", "\u{1F600}"),
        (r"^\-\:\#\@\_$", "-:#@_"),
        (r"^\8\1\101$", "8\u{1}A"),
        (r"^\p{L}$", "p{L}"),
        (r"^\k<a>$", "k<a>"),
        (r"^a{,2}{x}$", "a{,2}{x}"),
        (r"^]}$", "]}"),
        (r"^a{0}b$", "b"),
        (r"^\u{2}$", "uu"),
    ] {
        assert!(matches(text, yes), "{text} {yes:?}");
    }
}

#[test]
fn what_javascript_refuses_is_refused() {
    for text in [
        "(",
        ")",
        "[",
        "a**",
        "*a",
        "?",
        "{1}",
        "a{2,1}",
        "^*",
        r"\b+",
        "(?<=a)*",
        "(?i:a)",
        "(?<a>x)(?<a>y)",
        r"(?<a>x)\k<b>",
        "\\",
        "[b-a]",
        "(?<1>x)",
        "a{1}{2}",
        "(?",
        "(?<a",
    ] {
        assert!(Pattern::compile(text, STEPS).is_err(), "{text}");
    }
}

#[test]
fn look_around_and_back_references_work() {
    for (text, yes, no) in [
        (r"^/(?!admin)\w+$", "/public", "/admin"),
        (r"^/(?=.*secret)(?=.*key)", "/key-secret", "/key"),
        (r"(?<=\/v\d+)\/x", "/v12/x", "/w/x"),
        (r"(?<!a|bb)c", "bc", "bbc"),
        (r"^(a|b)\1$", "bb", "ab"),
        (r"^(?<q>['\x22]).*\k<q>$", "'x'", "'x\""),
        (r"^(?:(a)|b)*\1$", "ab", "aba "),
        (r"^(?=a)*b$", "b", "a"),
        (r"(?<=(\d+)(\d+))$", "1053", "x"),
    ] {
        assert!(matches(text, yes), "{text} {yes:?}");
        assert!(!matches(text, no), "{text} {no:?}");
    }
}

#[test]
fn replacement_follows_javascripts_rules() {
    for (text, template, global, subject, expected) in [
        ("foo", "bar", false, "foofoo", "barfoo"),
        ("foo", "bar", true, "foofoo", "barbar"),
        ("(a)(b)?", "[$1|$2|$3|$&|$$]", false, "xay", "x[a||$3|a|$]y"),
        ("b", "<$`$'>", false, "abc", "a<ac>c"),
        ("(?<n>b)", "<$<n>$<m>$<n>>", false, "abc", "a<bb>c"),
        ("b", "$<n>", false, "b", "$<n>"),
        ("(b)", "$10$01$", false, "b", "b0b$"),
        ("", "-", true, "aé", "-a-é-"),
        ("x*", "-", true, "axb", "-a--b-"),
        (r"(\d+)/(\d+)", "$2/$1", false, "/1/22/x", "/22/1/x"),
        (
            "(z)((a+)?(b+)?(c))*",
            "[$1|$2|$3|$4|$5]",
            false,
            "zaacbbbcac",
            "[z|ac|a||c]",
        ),
        ("none", "x", true, "text", "text"),
    ] {
        assert_eq!(
            pattern(text).replace(subject, template, global),
            expected,
            "{text} {template}"
        );
    }
}

#[test]
fn a_catastrophic_pattern_gives_up_in_time() {
    let long = "a".repeat(100_000);
    let started = Instant::now();
    for text in [
        r"^(a+)+\1b$",
        r"(?=(a*)*b)c",
        r"(a|aa)+(?!a)b",
        r"(?<=(a+)+)b\1",
        r"^(?=((a*)*)*$)b",
        r"(.*)(.*)(.*)\1x",
    ] {
        assert!(!matches(text, &long), "{text}");
    }
    assert!(!matches(r"(a+)+$b", &long));
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
}

#[test]
fn a_long_text_fits_the_budget_of_a_harmless_pattern() {
    let mut long = "some text, ".repeat(100_000);
    long.push_str("needle(42)");

    assert!(matches(r"needle(?=\(\d+\))", &long));
}

#[test]
fn a_huge_pattern_is_refused_and_a_huge_repetition_is_not() {
    assert_eq!(
        Pattern::compile(&"a".repeat(20_000), STEPS).unwrap_err(),
        PatternError::TooLong
    );
    assert_eq!(
        Pattern::compile(&"(".repeat(5_000), STEPS).unwrap_err(),
        PatternError::TooDeep
    );
    assert!(matches("^(?:[^/|x]|x{1,1000}){3}[^/]{1,5000}$", &"x".repeat(4000)));
    assert!(!matches("a{99999999999}", "aaa"));
}

/// Small pieces from which patterns are put together.
fn piece() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        4 => prop::sample::select(vec!["a", "b", "c", "ab", "é", "/", "1"]).prop_map(str::to_owned),
        2 => prop::sample::select(vec![
            ".", r"\w", r"\d", r"\s", r"\W", "[ab]", "[^a]", "[a-c1]", "[^]", "[]", "^", "$", r"\b", r"\B", r"\x61", r"\/",
            r"[\d-]", "]", "}", r"\1", r"\2", r"\07", r"\cA", r"\u0062", "{", "a{,1}", r"\-", "",
        ]).prop_map(str::to_owned),
    ];
    leaf.prop_recursive(5, 32, 4, |inner| {
        prop_oneof![
            3 => prop::collection::vec(inner.clone(), 1..4).prop_map(|parts| parts.concat()),
            2 => prop::collection::vec(inner.clone(), 2..4).prop_map(|parts| format!("(?:{})", parts.join("|"))),
            2 => inner.clone().prop_map(|part| format!("({part})")),
            2 => (inner.clone(), prop::sample::select(vec!["*", "+", "?", "*?", "+?", "??", "{2}", "{1,2}", "{0,3}?", "{2,}"]))
                .prop_map(|(part, quantifier)| format!("(?:{part}){quantifier}")),
            1 => (prop::sample::select(vec!["(?=", "(?!", "(?<=", "(?<!"]), inner).prop_map(|(look, part)| format!("{look}{part})")),
        ]
    })
}

#[test]
fn a_group_that_can_never_take_part_is_empty_and_still_a_group() {
    let pattern = Pattern::compile("(?:(?=(a)))?", STEPS).unwrap();

    assert_eq!(pattern.replace("b", "<$1>", false), "<>b");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// The oracle is an ECMAScript engine that has no budget.
    #[test]
    fn matches_are_those_of_an_ecmascript_engine(text in piece(), subject in "[abcé/1 \n]{0,8}") {
        let (ours, oracle) = (Pattern::compile(&text, STEPS), regress::Regex::new(&text));
        prop_assert_eq!(ours.is_ok(), oracle.is_ok(), "{}: {:?} {:?}", &text, &ours, &oracle);
        if let (Ok(ours), Ok(oracle)) = (ours, oracle) {
            let expected = oracle.find(&subject);
            prop_assert_eq!(ours.is_match(&subject), expected.is_some(), "{} on {:?}", &text, &subject);
            let found = ours.find(&subject, 0, &mut 10_000_000);
            let groups = expected.map(|found| {
                Spans(found.groups().map(|group| group.map(|range| (range.start, range.end))).collect())
            });
            prop_assert_eq!(found, groups, "{} on {:?}", &text, &subject);
        }
    }

    #[test]
    fn no_pattern_and_no_text_makes_it_panic(text in ".{0,40}", subject in ".{0,40}", template in "[$0-9&<a>`']{0,10}") {
        if let Ok(pattern) = Pattern::compile(&text, 1000) {
            pattern.is_match(&subject);
            pattern.replace(&subject, &template, true);
        }
    }
}
