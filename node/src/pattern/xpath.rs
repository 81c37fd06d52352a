//! XPath 1.0 over the bodies of messages, with a bound on its work.
//!
//! An expression is read once ([`parse`]) and evaluated on each body ([`eval`]). Prefixes mean what they are declared to
//! mean on the body's root element, and a name without one is in no namespace, as OpenHIM's library has it. The namespace
//! axis and `id()` yield nothing, and there are no variables. A document with a document type is not read.
//!
//! Whatever goes wrong, an expression that cannot be evaluated has no text and so equals nothing.

mod eval;
mod functions;
mod guard;
mod lex;
mod parse;
mod step;
#[cfg(test)]
mod tests;

use roxmltree::{Document, ParsingOptions};

use self::eval::Evaluation;
use self::parse::Expr;

/// Longest expression in bytes.
const MAX_EXPRESSION: usize = 8 * 1024;

/// Elements, texts and the like that a body may have.
const MAX_NODES: u32 = 2_000_000;

/// Why a text is no expression.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum XPathError {
    #[error("invalid XPath expression: {0}")]
    Syntax(String),
    #[error("XPath expression longer than {MAX_EXPRESSION} bytes")]
    TooLong,
    #[error("XPath expression nested too deeply")]
    TooDeep,
}

/// A compiled expression.
#[derive(Clone, Debug)]
pub struct XPath {
    expression: Expr,
    steps: usize,
}

impl XPath {
    /// Reads an expression. An evaluation that touches more than about `steps` nodes has no result.
    ///
    /// # Errors
    /// It is no XPath 1.0, uses a variable or an unknown function, or is larger than anything written by hand.
    pub fn compile(text: &str, steps: usize) -> Result<Self, XPathError> {
        if text.len() > MAX_EXPRESSION {
            return Err(XPathError::TooLong);
        }
        Ok(Self {
            expression: parse::parse(text)?,
            steps,
        })
    }

    /// The text of what the expression yields on an XML document: the plain text of a text, number or truth value; of
    /// nodes, their XML joined by commas, for which reason expressions are usually wrapped in `string(…)`. `None` if the
    /// document is no XML or the expression cannot be evaluated on it.
    pub fn text(&self, xml: &str) -> Option<String> {
        if !guard::is_harmless(xml) {
            return None;
        }
        let options = ParsingOptions {
            nodes_limit: MAX_NODES,
            ..ParsingOptions::default()
        };
        let xml = xml.strip_prefix('\u{FEFF}').unwrap_or(xml);
        let document = Document::parse_with_options(xml, options).ok()?;
        Evaluation::new(&document, self.steps).text(&self.expression).ok()
    }
}
