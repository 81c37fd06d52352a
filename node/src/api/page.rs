//! Pages of a list: `filterLimit` and `filterPage`.

use super::context::Query;

/// Which part of a list is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) skip: u64,
    /// 0: no limit.
    pub(super) limit: u64,
}

impl Page {
    /// Reads both parameters the way `parseInt` does: leading digits count, anything else is 0.
    pub(super) fn from_query(query: &Query) -> Self {
        let number = |key| query.get(key).map_or(0, |text| leading_number(&text));
        let limit = number("filterLimit");
        Self {
            skip: number("filterPage").saturating_mul(limit),
            limit,
        }
    }
}

fn leading_number(text: &str) -> u64 {
    let digits: String = text
        .trim_start()
        .chars()
        .take_while(char::is_ascii_digit)
        .take(15)
        .collect();
    digits.parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(text: &str) -> Page {
        Page::from_query(&Query::parse(text))
    }

    #[test]
    fn a_page_starts_after_the_pages_before_it() {
        assert_eq!(page("filterLimit=20&filterPage=3"), Page { skip: 60, limit: 20 });
        assert_eq!(page("filterLimit=20x"), Page { skip: 0, limit: 20 });
    }

    #[test]
    fn without_a_limit_everything_is_one_page() {
        for text in [
            "",
            "filterPage=7",
            "filterLimit=0&filterPage=2",
            "filterLimit=-5",
            "filterLimit=x",
        ] {
            assert_eq!(page(text), Page::default(), "{text}");
        }
        page("filterLimit=99999999999999999999&filterPage=99999999999999999999");
    }
}
