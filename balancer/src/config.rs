//! The configuration as written, and the way from there to a [`Plan`].
//!
//! A file (YAML, or JSON, or what `ipvsadm -S -n` prints) and the options of the command line end in the same tree of
//! [`written`] values, each of which knows its place. [`Config::check`] turns the tree into a plan and reports every
//! problem it finds, not only the first. Nothing here opens a socket or asks a name server.
//!
//! The manual of every key is [`keys::KEYS`].

pub mod backends;
mod check;
pub mod keys;
pub(crate) mod values;
mod written;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::plan::Plan;

use written::Written;

/// A configuration as it was written, not yet checked.
#[derive(Clone, Debug)]
pub struct Config {
    file: Option<PathBuf>,
    root: Written,
    /// What [`Config::with_options`] laid over the file, to be laid over it again.
    options: Option<Written>,
}

/// What [`Config::check`] found: the plan, and what is worth a warning.
#[derive(Clone, Debug)]
pub struct Checked {
    /// What should be.
    pub plan: Plan,
    /// Keys that mean nothing here, with a suggestion.
    pub warnings: Problems,
}

impl Config {
    /// Reads a file. It is read again, from the same path, on every reload.
    ///
    /// # Errors
    /// The file cannot be read, or is neither YAML nor a list of ipvsadm's rules.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, Problems> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path).map_err(|error| {
            Problems::one(Problem {
                place: Place::File {
                    file: path.into(),
                    line: 0,
                    column: 0,
                },
                path: String::new(),
                text: format!("cannot be read: {error}"),
            })
        })?;
        Self::from_text(&text, path)
    }

    /// Reads the text of a file; `path` is what problems name, and what relative paths inside are relative to.
    ///
    /// # Errors
    /// As [`Config::from_file`].
    pub fn from_text(text: &str, path: &Path) -> Result<Self, Problems> {
        Ok(Self {
            file: Some(path.to_owned()),
            root: if written::is_ipvsadm(text) {
                written::from_ipvsadm(text, path)?
            } else {
                written::from_yaml(text, path)?
            },
            options: None,
        })
    }

    /// Takes options of the command line, by their long names without the dashes; a repeated one is a list.
    ///
    /// ```
    /// use openhim_balancer::config::Config;
    /// let config = Config::from_options([("listen", "127.0.0.1:5000"), ("backends", "10.0.0.2:5000,10.0.0.3:5000")]);
    /// assert!(config.check().is_ok());
    /// ```
    pub fn from_options<K: AsRef<str>, V: Into<String>>(options: impl IntoIterator<Item = (K, V)>) -> Self {
        Self {
            file: None,
            root: written::from_options(options),
            options: None,
        }
    }

    /// Adds options of the command line to a file; they win over its top level.
    #[must_use]
    pub fn with_options<K: AsRef<str>, V: Into<String>>(mut self, options: impl IntoIterator<Item = (K, V)>) -> Self {
        let options = written::from_options(options);
        self.root.overlay(options.clone());
        self.options = Some(options);
        self
    }

    /// The same configuration as its file is now.
    ///
    /// # Errors
    /// As [`Config::from_file`].
    pub fn reread(&self) -> Result<Self, Problems> {
        let Some(file) = &self.file else {
            return Ok(self.clone());
        };
        let mut config = Self::from_file(file)?;
        if let Some(options) = &self.options {
            config.root.overlay(options.clone());
        }
        config.options.clone_from(&self.options);
        Ok(config)
    }

    /// The file this came from.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// Where a text is written: in the first value that has it as one of its words.
    #[must_use]
    pub fn place_of(&self, text: &str) -> Option<(Place, String)> {
        self.root.find(text, String::new())
    }

    /// Turns what is written into what should be.
    ///
    /// # Errors
    /// Every problem, each with its place.
    pub fn check(&self) -> Result<Checked, Problems> {
        check::check(&self.root, self.file.as_deref())
    }
}

/// Where something was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a file. Lines and columns count from 1; 0 is the file as a whole.
    File {
        /// Path as it was given.
        file: Arc<Path>,
        /// Line.
        line: usize,
        /// Column, in characters.
        column: usize,
    },
    /// In an option of the command line, or a word of a command.
    Option(Arc<str>),
    /// Nowhere: a default.
    Default,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { file, line: 0, .. } => write!(f, "{}", file.display()),
            Self::File { file, line, column } => write!(f, "{}:{line}:{column}", file.display()),
            Self::Option(name) => write!(f, "--{name}"),
            Self::Default => f.write_str("configuration"),
        }
    }
}

/// One thing that is wrong, or worth a warning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// Key it is about, from the root: `services[0].check.port`; empty for the whole.
    pub path: String,
    /// What, and what to write instead.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if !self.path.is_empty() && !matches!(self.place, Place::Option(_)) {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.text)
    }
}

/// All problems of one configuration, in the order of the text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    /// Just one.
    #[must_use]
    pub fn one(problem: Problem) -> Self {
        Self(vec![problem])
    }

    /// True if there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

#[cfg(test)]
mod tests;
