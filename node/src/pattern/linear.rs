//! Regular patterns in the syntax of the `regex` crate.

use std::fmt::Write as _;

use super::charset::CharSet;
use super::syntax::Node;

/// Bytes that a compiled pattern may take; a larger one runs on the backtracking machine.
const SIZE_LIMIT: usize = 2 * 1024 * 1024;

/// Bytes of lazily built automaton that a pattern may keep.
const DFA_LIMIT: usize = 1024 * 1024;

/// Compiles what is regular; `None` for the rest.
pub(super) fn compile(root: &Node) -> Option<regex::Regex> {
    let mut out = String::new();
    write(&mut out, root)?;
    regex::RegexBuilder::new(&out)
        .size_limit(SIZE_LIMIT)
        .dfa_size_limit(DFA_LIMIT)
        .nest_limit(super::syntax::MAX_DEPTH * 4)
        .build()
        .ok()
}

fn write(out: &mut String, node: &Node) -> Option<()> {
    match node {
        Node::Empty => out.push_str("(?:)"),
        Node::Char(c) => write_code(out, *c as u32),
        Node::Set(set) => write_set(out, set),
        Node::Start => out.push_str(r"\A"),
        Node::End => out.push_str(r"\z"),
        Node::Boundary { negated: false } => out.push_str(r"(?-u:\b)"),
        Node::Boundary { negated: true } => out.push_str(r"(?-u:\B)"),
        Node::Concat(items) => items.iter().try_for_each(|item| write(out, item))?,
        Node::Alternate(branches) => {
            out.push_str("(?:");
            for (index, branch) in branches.iter().enumerate() {
                if index > 0 {
                    out.push('|');
                }
                write(out, branch)?;
            }
            out.push(')');
        }
        Node::Group { inner, .. } => {
            out.push('(');
            write(out, inner)?;
            out.push(')');
        }
        Node::Repeat {
            inner,
            min,
            max,
            greedy,
            ..
        } => {
            out.push_str("(?:");
            write(out, inner)?;
            out.push(')');
            match max {
                Some(max) => write!(out, "{{{min},{max}}}").ok()?,
                None => write!(out, "{{{min},}}").ok()?,
            }
            if !greedy {
                out.push('?');
            }
        }
        Node::Look { .. } | Node::BackReference(_) => return None,
    }
    Some(())
}

fn write_code(out: &mut String, code: u32) {
    // Writing to a string cannot fail.
    let _ = write!(out, r"\x{{{code:X}}}");
}

fn write_set(out: &mut String, set: &CharSet) {
    out.push('[');
    let mut is_empty = true;
    for &(low, high) in set.ranges() {
        for (low, high) in [(low, high.min(0xD7FF)), (low.max(0xE000), high)] {
            if low <= high {
                is_empty = false;
                write_code(out, low);
                out.push('-');
                write_code(out, high);
            }
        }
    }
    if is_empty {
        out.push_str(r"^\x{0}-\x{10FFFF}");
    }
    out.push(']');
}
