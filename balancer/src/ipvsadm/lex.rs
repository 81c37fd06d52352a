//! Words, and options with their values, each with its column.

use super::Reason;

/// A word of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Word<'a> {
    pub(super) text: &'a str,
    /// Counted from one, in characters.
    pub(super) column: usize,
}

/// An option with its value, both letters and long names as letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Given<'a> {
    pub(super) option: Known,
    /// As it was written, for messages.
    pub(super) written: &'a str,
    pub(super) column: usize,
    pub(super) value: Option<Word<'a>>,
}

impl Given<'_> {
    /// As in a message.
    pub(super) fn shown(&self) -> String {
        let dash = if self.written.starts_with('-') { "" } else { "-" };
        format!("{dash}{}", self.written)
    }

    pub(super) fn needs_value(&self) -> bool {
        self.option.takes == Takes::Value
    }
}

/// Whether an option has a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Takes {
    Nothing,
    Value,
    /// A value unless the next word is an option.
    Perhaps,
}

/// An option ipvsadm has, or we have beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Known {
    /// Its letter, or one made up for an option without.
    pub(super) id: char,
    pub(super) name: &'static str,
    takes: Takes,
}

/// Options without a letter, by what stands for it.
pub(super) mod id {
    pub(in super::super) const SET: char = '1';
    pub(in super::super) const START_DAEMON: char = '2';
    pub(in super::super) const STOP_DAEMON: char = '3';
    pub(in super::super) const STATS: char = '4';
    pub(in super::super) const RATE: char = '5';
    pub(in super::super) const THRESHOLDS: char = '*';
    pub(in super::super) const PERSISTENT_CONN: char = '7';
    pub(in super::super) const TIMEOUT: char = '8';
    pub(in super::super) const DAEMON: char = '9';
    pub(in super::super) const SORT: char = '0';
    pub(in super::super) const NOSORT: char = '_';
    pub(in super::super) const JSON: char = 'j';
    pub(in super::super) const PE: char = 'q';
}

const fn option(id: char, name: &'static str, takes: Takes) -> Known {
    Known { id, name, takes }
}

const OPTIONS: &[Known] = &[
    option('A', "add-service", Takes::Nothing),
    option('E', "edit-service", Takes::Nothing),
    option('D', "delete-service", Takes::Nothing),
    option('C', "clear", Takes::Nothing),
    option('R', "restore", Takes::Nothing),
    option('S', "save", Takes::Nothing),
    option('a', "add-server", Takes::Nothing),
    option('e', "edit-server", Takes::Nothing),
    option('d', "delete-server", Takes::Nothing),
    option('L', "list", Takes::Nothing),
    option('l', "list", Takes::Nothing),
    option('Z', "zero", Takes::Nothing),
    option(id::SET, "set", Takes::Nothing),
    option(id::START_DAEMON, "start-daemon", Takes::Value),
    option(id::STOP_DAEMON, "stop-daemon", Takes::Value),
    option('t', "tcp-service", Takes::Value),
    option('u', "udp-service", Takes::Value),
    option('f', "fwmark-service", Takes::Value),
    option('s', "scheduler", Takes::Value),
    option('b', "sched-flags", Takes::Value),
    option('p', "persistent", Takes::Perhaps),
    option('M', "netmask", Takes::Value),
    option(id::PE, "pe", Takes::Value),
    option('r', "real-server", Takes::Value),
    option('g', "gatewaying", Takes::Nothing),
    option('i', "ipip", Takes::Nothing),
    option('m', "masquerading", Takes::Nothing),
    option('w', "weight", Takes::Value),
    option('x', "u-threshold", Takes::Value),
    option('y', "l-threshold", Takes::Value),
    option('c', "connection", Takes::Nothing),
    option(id::TIMEOUT, "timeout", Takes::Nothing),
    option(id::DAEMON, "daemon", Takes::Nothing),
    option(id::STATS, "stats", Takes::Nothing),
    option(id::RATE, "rate", Takes::Nothing),
    option('X', "exact", Takes::Nothing),
    option(id::THRESHOLDS, "thresholds", Takes::Nothing),
    option(id::PERSISTENT_CONN, "persistent-conn", Takes::Nothing),
    option(id::SORT, "sort", Takes::Nothing),
    option(id::NOSORT, "nosort", Takes::Nothing),
    option('n', "numeric", Takes::Nothing),
    option('6', "ipv6", Takes::Nothing),
    option('o', "ops", Takes::Nothing),
    option(id::JSON, "json", Takes::Nothing),
];

/// The words of a line, without a comment and without the program's name in front.
pub(super) fn words(line: &str) -> Vec<Word<'_>> {
    let mut words = Vec::new();
    let mut column = 1;
    for piece in line.split_inclusive(char::is_whitespace) {
        let text = piece.trim_end();
        if text.starts_with('#') {
            break;
        }
        if !text.is_empty() {
            words.push(Word { text, column });
        }
        column += piece.chars().count();
    }
    let programs = words
        .iter()
        .take_while(|word| word.text == "sudo" || is_program(word.text))
        .count();
    words.drain(..programs);
    words
}

fn is_program(word: &str) -> bool {
    word.rsplit('/').next() == Some("ipvsadm")
}

/// Splits words into options and, for `--set`, bare values.
pub(super) fn options<'a>(words: &[Word<'a>]) -> Result<(Vec<Given<'a>>, Vec<Word<'a>>), (usize, Reason)> {
    let mut given = Vec::new();
    let mut bare = Vec::new();
    let mut rest = words.iter().copied().peekable();
    while let Some(word) = rest.next() {
        let mut value = |takes| match takes {
            Takes::Nothing => None,
            Takes::Value => rest.next(),
            Takes::Perhaps => rest.next_if(|next| !next.text.starts_with('-')),
        };
        if let Some(long) = word.text.strip_prefix("--") {
            let (name, attached) = match long.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (long, None),
            };
            let Some(&option) = OPTIONS.iter().find(|option| option.name == name) else {
                return Err((word.column, Reason::UnknownOption(word.text.to_owned())));
            };
            let attached = attached.map(|text| Word {
                text,
                column: word.column + 3 + name.chars().count(),
            });
            if attached.is_some() && option.takes == Takes::Nothing {
                return Err((word.column, Reason::NeedlessValue(word.text.to_owned())));
            }
            let value = attached.or_else(|| value(option.takes));
            given.push(Given {
                option,
                written: word.text,
                column: word.column,
                value,
            });
        } else if let Some(letters) = word.text.strip_prefix('-').filter(|letters| !letters.is_empty()) {
            for (place, letter) in letters.char_indices() {
                let Some(&option) = OPTIONS.iter().find(|option| is_letter(option, letter)) else {
                    return Err((word.column, Reason::UnknownOption(format!("-{letter}"))));
                };
                let tail = &letters[place + letter.len_utf8()..];
                let letter_column = word.column + 1 + letters[..place].chars().count();
                // The first letter is pointed at with its dash.
                let column = if place == 0 { word.column } else { letter_column };
                let written = &letters[place..place + letter.len_utf8()];
                // What follows a letter that wants a value is its value.
                let takes_tail = option.takes != Takes::Nothing && !tail.is_empty();
                let value = if takes_tail {
                    Some(Word {
                        text: tail,
                        column: letter_column + 1,
                    })
                } else {
                    value(option.takes)
                };
                given.push(Given {
                    option,
                    written,
                    column,
                    value,
                });
                if takes_tail {
                    break;
                }
            }
        } else {
            bare.push(word);
        }
    }
    Ok((given, bare))
}

/// True if the option can be written as this letter: those without have a digit or a sign in its place.
fn is_letter(option: &Known, letter: char) -> bool {
    let made_up = [id::JSON, id::PE];
    option.id == letter && ((letter.is_ascii_alphabetic() && !made_up.contains(&letter)) || option.name == "ipv6")
}
