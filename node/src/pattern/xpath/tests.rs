use proptest::prelude::*;

use super::*;

const STEPS: usize = 1_000_000;

const XML: &str = r#"<?xml version="1.0"?>
<!-- a comment -->
<?style sheet?>
<care:Careservices xmlns:care="urn:care" xmlns="urn:default" xml:lang="en-GB" version="2">
  <function uuid="4e8bbeb9">
    <care:codedType code="2221" codingScheme="local">first</care:codedType>
    <care:codedType code="2222">second</care:codedType>
  </function>
  <plain xmlns=""><item n="1">a</item><item n="2">b</item><item n="3"> c  d </item><empty/></plain>
</care:Careservices>"#;

fn text(expression: &str) -> Option<String> {
    XPath::compile(expression, STEPS)
        .unwrap_or_else(|error| panic!("{expression}: {error}"))
        .text(XML)
}

#[test]
fn expressions_yield_their_text() {
    for (expression, expected) in [
        // Paths.
        ("string(/care:Careservices/@version)", "2"),
        ("string(//care:codedType[2])", "second"),
        ("string(//care:codedType[@code='2221'])", "first"),
        ("string(/care:Careservices/*/care:codedType/@codingScheme)", "local"),
        ("string(//item)", "a"),
        ("string(//plain/item[last()])", " c  d "),
        ("string(//item[position()=2]/@n)", "2"),
        ("string(//item[. = 'b']/preceding-sibling::item)", "a"),
        ("string(//item[@n='1']/following-sibling::*[1])", "b"),
        ("string((//item)[2])", "b"),
        ("string(//item[2]/..//item/@n)", "1"),
        ("count(//item/ancestor::*)", "2"),
        ("count(//item/ancestor-or-self::node())", "6"),
        ("count(//@n)", "3"),
        ("count(//care:*)", "3"),
        ("count(//*)", "9"),
        ("count(//comment())", "1"),
        ("count(/node())", "3"),
        ("count(//processing-instruction('style'))", "1"),
        ("count(//item[1]/following::*)", "3"),
        ("count(//empty/preceding::item)", "3"),
        ("count(//item | //empty | //item)", "4"),
        ("count(//item/text())", "3"),
        ("count(/descendant::care:codedType)", "2"),
        ("count(//plain/child::item/self::item/attribute::n/parent::item)", "3"),
        ("string(.//empty)", ""),
        ("count(//item/@n/following::empty)", "1"),
        // A name without a prefix is in no namespace.
        ("count(//function)", "0"),
        ("count(//*[local-name()='function'])", "1"),
        // Functions.
        ("concat('a', 1, true(), 2.50)", "a1true2.5"),
        ("substring('12345', 1.5, 2.6)", "234"),
        ("substring('12345', 0 div 0, 3)", ""),
        ("substring('12345', -42, 1 div 0)", "12345"),
        ("substring('12345', 2)", "2345"),
        ("substring-before('1999/04/01', '/')", "1999"),
        ("substring-after('1999/04/01', '/')", "04/01"),
        ("substring-after('abc', 'x')", ""),
        ("translate('--aaa--', 'abc-', 'ABC')", "AAA"),
        ("normalize-space(//item[3])", "c d"),
        ("string-length('é1')", "2"),
        ("string-length(//item[1])", "1"),
        ("name(/*)", "care:Careservices"),
        ("name(//@*[local-name()='lang'])", "xml:lang"),
        ("local-name(/*)", "Careservices"),
        ("namespace-uri(/*)", "urn:care"),
        ("name(//item/@n)", "n"),
        ("starts-with('abc', 'ab') and contains('abc', 'bc')", "true"),
        ("sum(//item/@n)", "6"),
        ("floor(-1.5) + ceiling(1.2) + round(2.5)", "3"),
        ("number('-.5')", "-0.5"),
        ("number('1e3')", "NaN"),
        ("lang('en')", "false"),
        ("boolean(//item[lang('EN')])", "true"),
        ("count(//item[lang('en-GB')])", "3"),
        ("not(//nothing)", "true"),
        ("count(id('x'))", "0"),
        // Operators.
        ("1 + 2 * 3 - 4 div 2", "5"),
        ("5 mod -2", "1"),
        ("-(2) * --3", "-6"),
        ("1 div 0", "Infinity"),
        ("0.1 * 3", "0.30000000000000004"),
        ("-0", "0"),
        ("'a' = 'a'", "true"),
        ("//item = 'b'", "true"),
        ("//item != 'b'", "true"),
        ("//item/@n > 2", "true"),
        ("3 < //item/@n", "false"),
        ("//item/@n = //care:codedType/@code", "false"),
        ("//nothing = false()", "true"),
        ("true() = 'x'", "true"),
        ("1 < 2 = true()", "true"),
        ("1 or 1 div 0", "true"),
        ("//item[1] * 2", "NaN"),
        ("* * *", "NaN"),
        ("count(//item[@n mod 2 = 1])", "2"),
        // Nodes are their XML.
        ("//item[1]", r#"<item n="1">a</item>"#),
        ("//item[@n<3]", r#"<item n="1">a</item>,<item n="2">b</item>"#),
        ("//item[1]/@n", r#" n="1""#),
        ("//item[1]/text()", "a"),
        ("//nothing", ""),
    ] {
        assert_eq!(text(expression).as_deref(), Some(expected), "{expression}");
    }
}

#[test]
fn what_is_no_expression_is_refused() {
    for expression in [
        "",
        "//",
        "a[",
        "a]",
        "(a",
        "'a",
        "1 +",
        "a b",
        "$x",
        "unknown()",
        "count()",
        "a::b",
        "foo:bar()",
        "/a/",
        "@",
        "..[1]x",
        "#",
        "concat('a')",
        "1 1",
        "a or",
        "text(1)",
    ] {
        assert!(XPath::compile(expression, STEPS).is_err(), "{expression}");
    }
    assert_eq!(
        XPath::compile(&"(".repeat(5000), STEPS).unwrap_err(),
        XPathError::TooDeep
    );
    assert_eq!(
        XPath::compile(&"a|".repeat(3000), STEPS).unwrap_err(),
        XPathError::TooDeep
    );
    assert_eq!(
        XPath::compile(&"a".repeat(9000), STEPS).unwrap_err(),
        XPathError::TooLong
    );
}

#[test]
fn what_cannot_be_evaluated_has_no_text() {
    for expression in ["//unknown:x", "count('a')", "'a' | 'b'", "('a')/b", "sum(1)"] {
        assert_eq!(text(expression), None, "{expression}");
    }
    let any = XPath::compile("string(/*)", STEPS).unwrap();
    for xml in ["", "not xml", "<a>", "<a/><b/>", "<a b=c/>", "{}"] {
        assert_eq!(any.text(xml), None, "{xml}");
    }
    assert_eq!(any.text("\u{FEFF}<a>x</a>").as_deref(), Some("x"));
}

#[test]
fn a_document_that_grows_when_read_does_not_stall() {
    let mut xml = String::from("<!DOCTYPE a [<!ENTITY x0 'xxxxxxxxxx'>");
    for level in 1..20 {
        let references = format!("&x{};", level - 1).repeat(10);
        xml.push_str(&format!("<!ENTITY x{level} '{references}'>"));
    }
    xml.push_str("]><a>&x19;</a>");

    assert_eq!(XPath::compile("string(/a)", STEPS).unwrap().text(&xml), None);
}

#[test]
fn a_deep_document_is_read_or_refused_but_survived() {
    let deep = format!("{}{}", "<a>".repeat(100_000), "</a>".repeat(100_000));

    for expression in ["count(//a)", "count(//a[. = 'x'])"] {
        let _ = XPath::compile(expression, STEPS).unwrap().text(&deep);
    }
}

#[test]
fn an_expression_that_never_ends_gives_up_in_time() {
    let wide = format!("<a>{}</a>", "<b>x</b>".repeat(20_000));
    let started = std::time::Instant::now();

    for expression in [
        "count(//b[count(//b[. = //b]) > 0])",
        "string(//b[//b[//b]])",
        "count(//b/following::b/preceding::b)",
    ] {
        assert_eq!(
            XPath::compile(expression, STEPS).unwrap().text(&wide),
            None,
            "{expression}"
        );
    }
    assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
}

fn expression() -> impl Strategy<Value = String> {
    let leaf = prop::sample::select(vec![
        "a", "@b", ".", "..", "*", "//c", "1", "'x'", "text()", "last()", "/", "node()",
    ])
    .prop_map(str::to_owned);
    leaf.prop_recursive(4, 24, 3, |inner| {
        let operator = prop::sample::select(vec![
            "+", "-", "*", "div", "mod", "=", "!=", "<", "and", "or", "|", "/", "//",
        ]);
        prop_oneof![
            (inner.clone(), operator, inner.clone())
                .prop_map(|(left, operator, right)| format!("{left} {operator} {right}")),
            (inner.clone(), inner.clone()).prop_map(|(base, predicate)| format!("{base}[{predicate}]")),
            inner.clone().prop_map(|inner| format!("({inner})")),
            (
                prop::sample::select(vec!["count", "string", "not", "sum", "name"]),
                inner
            )
                .prop_map(|(name, inner)| format!("{name}({inner})")),
        ]
    })
}

proptest! {
    #[test]
    fn no_expression_makes_it_panic(expression in expression(), noise in ".{0,20}") {
        for text in [expression, noise] {
            if let Ok(compiled) = XPath::compile(&text, 10_000) {
                compiled.text("<a b='1'><c>x</c><c/><!-- y --></a>");
                compiled.text(XML);
            }
        }
    }
}

#[test]
fn an_element_of_very_many_attributes_does_not_stall() {
    let attributes: String = (0..100_000).map(|index| format!(" a{index}=''")).collect();
    let namespaces: String = (0..100_000)
        .map(|index| format!(" xmlns:n{index}='u{index}'"))
        .collect();
    let nested = format!(
        "{}{}",
        format!("<a{}>", &namespaces[..20_000]).repeat(50),
        "</a>".repeat(50)
    );
    let any = XPath::compile("string(/*)", STEPS).unwrap();
    let started = std::time::Instant::now();

    for xml in [format!("<a{attributes}/>"), format!("<a{namespaces}/>"), nested] {
        any.text(&xml);
        eprintln!("{:?}", started.elapsed());
    }
    assert!(started.elapsed().as_secs() < 10, "{:?}", started.elapsed());
}
