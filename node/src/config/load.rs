//! From files, environment and flags to a checked [`Config`](super::Config).

use super::Config;

/// The defaults, as `config/default.json` has them.
pub const DEFAULTS: &str = include_str!("../../../config/default.json");

impl Config {
    /// The defaults alone: what an empty environment and no file give.
    ///
    /// # Panics
    /// Never: a test parses the embedded file.
    #[expect(
        clippy::expect_used,
        reason = "the embedded file is part of the binary and is parsed by a test"
    )]
    pub fn defaults() -> Self {
        serde_json::from_str(DEFAULTS).expect("embedded defaults parse")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_defaults_parse() {
        let config = Config::defaults();
        assert_eq!(config.router.http_port, 5001);
        assert_eq!(config.cluster, None);
    }
}
