//! A backtracking machine for what is not regular, with JavaScript's rules for groups, and a budget.
//!
//! The tree becomes a program; inside a look-behind it reads the text from right to left. Whatever a failed branch has
//! changed is undone from the same stack that holds the branches, so that the stack is all the memory a search needs.

use super::Spans;
use super::charset::{CharSet, is_word};
use super::syntax::{Node, Tree};

/// Entries that wait on the stack; a search that needs more gives up.
const MAX_STACK: usize = 1 << 20;

/// A compiled pattern.
#[derive(Clone, Debug)]
pub(super) struct Program {
    code: Vec<Op>,
    sets: Vec<CharSet>,
    names: Vec<(Box<str>, u32)>,
    /// Capture groups and the whole match.
    groups: usize,
    registers: usize,
    /// True if a match can only begin where the text begins.
    anchored: bool,
}

#[derive(Clone, Debug)]
enum Op {
    Char {
        c: char,
        back: bool,
    },
    Set {
        set: usize,
        back: bool,
    },
    /// As many of a set as possible, or as few; then the rest of the program.
    Run {
        set: usize,
        min: u32,
        max: u32,
        greedy: bool,
        back: bool,
    },
    Start,
    End,
    Boundary {
        negated: bool,
    },
    Save {
        slot: usize,
    },
    /// Forgets groups `from..to`.
    Forget {
        from: usize,
        to: usize,
    },
    Jump {
        to: usize,
    },
    /// Tries `first`, then `second`.
    Split {
        first: usize,
        second: usize,
    },
    /// Puts 0 into a register.
    Zero {
        register: usize,
    },
    /// Notes the position in a register.
    Note {
        register: usize,
    },
    /// Begins another round or leaves: `body` is next, `exit` is after the loop.
    Loop {
        counter: usize,
        min: u32,
        max: u32,
        greedy: bool,
        exit: usize,
    },
    /// Ends a round: one that is not required must have moved since `noted`.
    Again {
        counter: usize,
        noted: usize,
        min: u32,
        head: usize,
    },
    /// Runs what follows up to its `Accept`, without moving.
    Look {
        negated: bool,
        exit: usize,
    },
    BackReference {
        group: usize,
        back: bool,
    },
    Accept,
}

impl Program {
    pub(super) fn compile(tree: &Tree) -> Self {
        let mut compiler = Compiler::default();
        compiler.push(Op::Save { slot: 0 });
        compiler.node(&tree.root, false);
        compiler.push(Op::Save { slot: 1 });
        compiler.push(Op::Accept);
        Self {
            code: compiler.code,
            sets: compiler.sets,
            names: tree.names.clone(),
            groups: tree.groups as usize + 1,
            registers: compiler.registers,
            anchored: is_anchored(&tree.root),
        }
    }

    pub(super) fn names(&self) -> &[(Box<str>, u32)] {
        &self.names
    }

    pub(super) fn group_named(&self, name: &str) -> Option<usize> {
        let (_, group) = self.names.iter().find(|(known, _)| **known == *name)?;
        Some(*group as usize)
    }

    /// The first match that begins at or after `from`; `None` also if the budget ends.
    pub(super) fn find(&self, text: &str, from: usize, budget: &mut usize) -> Option<Spans> {
        let mut machine = Machine {
            program: self,
            text,
            slots: vec![None; self.groups * 2],
            registers: vec![0; self.registers],
            stack: Vec::new(),
            budget,
        };
        let mut start = from;
        loop {
            match machine.run(0, start) {
                Ok(true) => return Some(machine.spans()),
                Ok(false) if !self.anchored => {}
                _ => return None,
            }
            start += text.get(start..)?.chars().next()?.len_utf8();
        }
    }
}

fn is_anchored(node: &Node) -> bool {
    match node {
        Node::Start => true,
        Node::Concat(items) => items.first().is_some_and(is_anchored),
        Node::Alternate(branches) => branches.iter().all(is_anchored),
        Node::Group { inner, .. } => is_anchored(inner),
        _ => false,
    }
}

#[derive(Debug, Default)]
struct Compiler {
    code: Vec<Op>,
    sets: Vec<CharSet>,
    registers: usize,
}

impl Compiler {
    fn push(&mut self, op: Op) -> usize {
        self.code.push(op);
        self.code.len() - 1
    }

    fn register(&mut self) -> usize {
        self.registers += 1;
        self.registers - 1
    }

    fn set(&mut self, set: &CharSet) -> usize {
        if let Some(known) = self.sets.iter().position(|other| other == set) {
            return known;
        }
        self.sets.push(set.clone());
        self.sets.len() - 1
    }

    fn node(&mut self, node: &Node, back: bool) {
        match node {
            Node::Empty => {}
            Node::Char(c) => drop(self.push(Op::Char { c: *c, back })),
            Node::Set(set) => {
                let set = self.set(set);
                self.push(Op::Set { set, back });
            }
            Node::Start => drop(self.push(Op::Start)),
            Node::End => drop(self.push(Op::End)),
            Node::Boundary { negated } => drop(self.push(Op::Boundary { negated: *negated })),
            Node::Concat(items) if back => items.iter().rev().for_each(|item| self.node(item, back)),
            Node::Concat(items) => items.iter().for_each(|item| self.node(item, back)),
            Node::Alternate(branches) => self.alternate(branches, back),
            Node::Group { index, inner } => {
                let (left, right) = (*index as usize * 2, *index as usize * 2 + 1);
                let (first, last) = if back { (right, left) } else { (left, right) };
                self.push(Op::Save { slot: first });
                self.node(inner, back);
                self.push(Op::Save { slot: last });
            }
            Node::Look { behind, negated, inner } => {
                let look = self.push(Op::Accept);
                self.node(inner, *behind);
                self.push(Op::Accept);
                self.code[look] = Op::Look {
                    negated: *negated,
                    exit: self.code.len(),
                };
            }
            Node::BackReference(group) => drop(self.push(Op::BackReference {
                group: *group as usize,
                back,
            })),
            Node::Repeat {
                inner,
                min,
                max,
                greedy,
                groups,
            } => {
                let max = max.unwrap_or(u32::MAX);
                match &**inner {
                    Node::Char(c) => self.run(&CharSet::new(vec![(*c as u32, *c as u32)]), *min, max, *greedy, back),
                    Node::Set(set) => self.run(set, *min, max, *greedy, back),
                    inner => self.repeat(
                        inner,
                        (*min, max, *greedy),
                        groups.start as usize..groups.end as usize,
                        back,
                    ),
                }
            }
        }
    }

    fn run(&mut self, set: &CharSet, min: u32, max: u32, greedy: bool, back: bool) {
        let set = self.set(set);
        self.push(Op::Run {
            set,
            min,
            max,
            greedy,
            back,
        });
    }

    fn alternate(&mut self, branches: &[Node], back: bool) {
        let mut jumps = Vec::new();
        for (index, branch) in branches.iter().enumerate() {
            if index + 1 == branches.len() {
                self.node(branch, back);
                break;
            }
            let split = self.push(Op::Accept);
            self.node(branch, back);
            jumps.push(self.push(Op::Accept));
            self.code[split] = Op::Split {
                first: split + 1,
                second: self.code.len(),
            };
        }
        for jump in jumps {
            self.code[jump] = Op::Jump { to: self.code.len() };
        }
    }

    fn repeat(&mut self, inner: &Node, bounds: (u32, u32, bool), groups: std::ops::Range<usize>, back: bool) {
        let (min, max, greedy) = bounds;
        let (counter, noted) = (self.register(), self.register());
        self.push(Op::Zero { register: counter });
        let head = self.push(Op::Accept);
        self.push(Op::Note { register: noted });
        if !groups.is_empty() {
            self.push(Op::Forget {
                from: groups.start,
                to: groups.end,
            });
        }
        self.node(inner, back);
        self.push(Op::Again {
            counter,
            noted,
            min,
            head,
        });
        self.code[head] = Op::Loop {
            counter,
            min,
            max,
            greedy,
            exit: self.code.len(),
        };
    }
}

/// What is undone or tried when a branch fails.
#[derive(Clone, Copy, Debug)]
enum Entry {
    Branch {
        at: usize,
        position: usize,
    },
    Slot {
        slot: usize,
        was: Option<usize>,
    },
    Register {
        register: usize,
        was: usize,
    },
    /// A greedy run that can give back characters down to `least`.
    Shrink {
        at: usize,
        position: usize,
        least: usize,
        back: bool,
    },
    /// A lazy run that can take `left` characters more.
    Grow {
        at: usize,
        position: usize,
        left: u32,
    },
}

/// The budget or the stack is used up.
struct Exhausted;

struct Machine<'a> {
    program: &'a Program,
    text: &'a str,
    slots: Vec<Option<usize>>,
    registers: Vec<usize>,
    stack: Vec<Entry>,
    budget: &'a mut usize,
}

impl Machine<'_> {
    /// Runs from `at` to the next `Accept`; leaves on the stack only what undoes its changes. After a failure
    /// everything is as it was.
    fn run(&mut self, mut at: usize, mut position: usize) -> Result<bool, Exhausted> {
        let floor = self.stack.len();
        loop {
            self.spend(1)?;
            let went_on = match &self.program.code[at] {
                Op::Accept => {
                    self.forget_branches(floor);
                    return Ok(true);
                }
                op => self.step(op, &mut at, &mut position)?,
            };
            if !went_on && !self.back_track(floor, &mut at, &mut position)? {
                return Ok(false);
            }
        }
    }

    fn spend(&mut self, steps: usize) -> Result<(), Exhausted> {
        *self.budget = self.budget.checked_sub(steps).ok_or(Exhausted)?;
        Ok(())
    }

    fn push(&mut self, entry: Entry) -> Result<(), Exhausted> {
        if self.stack.len() >= MAX_STACK {
            return Err(Exhausted);
        }
        self.stack.push(entry);
        Ok(())
    }

    /// Carries out one operation; false if it does not match.
    fn step(&mut self, op: &Op, at: &mut usize, position: &mut usize) -> Result<bool, Exhausted> {
        let next = *at + 1;
        let matched = match *op {
            Op::Char { c, back } => self.advance(position, back, |found, _| found == c),
            Op::Set { set, back } => self.advance(position, back, |found, sets| sets[set].contains(found)),
            Op::Run {
                set,
                min,
                max,
                greedy,
                back,
            } => {
                return self.run_of(
                    at,
                    position,
                    &Run {
                        set,
                        min,
                        max,
                        greedy,
                        back,
                    },
                );
            }
            Op::Start => *position == 0,
            Op::End => *position == self.text.len(),
            Op::Boundary { negated } => self.is_boundary(*position) != negated,
            Op::Save { slot } => self.save(slot, Some(*position)).map(|()| true)?,
            Op::Forget { from, to } => {
                for slot in from * 2..to * 2 {
                    self.save(slot, None)?;
                }
                true
            }
            Op::Jump { to } => {
                *at = to;
                return Ok(true);
            }
            Op::Split { first, second } => {
                self.push(Entry::Branch {
                    at: second,
                    position: *position,
                })?;
                *at = first;
                return Ok(true);
            }
            Op::Zero { register } => self.set_register(register, 0).map(|()| true)?,
            Op::Note { register } => self.set_register(register, *position).map(|()| true)?,
            Op::Loop {
                counter,
                min,
                max,
                greedy,
                exit,
            } => {
                *at = self.enter_loop(next, exit, *position, self.registers[counter], (min, max, greedy))?;
                return Ok(true);
            }
            Op::Again {
                counter,
                noted,
                min,
                head,
            } => {
                let rounds = self.registers[counter];
                if rounds >= min as usize && self.registers[noted] == *position {
                    return Ok(false);
                }
                self.set_register(counter, rounds.saturating_add(1))?;
                *at = head;
                return Ok(true);
            }
            Op::Look { negated, exit } => {
                let floor = self.stack.len();
                let found = self.run(next, *position)?;
                if found && negated {
                    self.undo_to(floor);
                }
                *at = exit;
                return Ok(found != negated);
            }
            Op::BackReference { group, back } => self.repeat_group(position, group, back)?,
            Op::Accept => true,
        };
        *at = next;
        Ok(matched)
    }

    fn enter_loop(
        &mut self,
        body: usize,
        exit: usize,
        position: usize,
        rounds: usize,
        (min, max, greedy): (u32, u32, bool),
    ) -> Result<usize, Exhausted> {
        if rounds < min as usize {
            return Ok(body);
        }
        if max != u32::MAX && rounds >= max as usize {
            return Ok(exit);
        }
        let (first, second) = if greedy { (body, exit) } else { (exit, body) };
        self.push(Entry::Branch { at: second, position })?;
        Ok(first)
    }

    /// Takes one character if it is wanted.
    fn advance(&self, position: &mut usize, back: bool, wanted: impl Fn(char, &[CharSet]) -> bool) -> bool {
        match self.neighbour(*position, back) {
            Some(c) if wanted(c, &self.program.sets) => {
                *position = moved(*position, c, back);
                true
            }
            _ => false,
        }
    }

    fn neighbour(&self, position: usize, back: bool) -> Option<char> {
        match back {
            true => self.text[..position].chars().next_back(),
            false => self.text[position..].chars().next(),
        }
    }

    fn is_boundary(&self, position: usize) -> bool {
        let word = |back| self.neighbour(position, back).is_some_and(is_word);
        word(true) != word(false)
    }

    fn run_of(&mut self, at: &mut usize, position: &mut usize, run: &Run) -> Result<bool, Exhausted> {
        let (code, most) = (*at, if run.greedy { run.max } else { run.min });
        let (mut taken, mut least) = (0, *position);
        while taken < most && self.advance(position, run.back, |c, sets| sets[run.set].contains(c)) {
            taken += 1;
            if taken == run.min {
                least = *position;
            }
            self.spend(1)?;
        }
        *at = code + 1;
        if taken < run.min {
            return Ok(false);
        }
        if run.greedy && *position != least {
            self.push(Entry::Shrink {
                at: code + 1,
                position: *position,
                least,
                back: run.back,
            })?;
        } else if !run.greedy && run.max > run.min {
            self.push(Entry::Grow {
                at: code,
                position: *position,
                left: run.max - run.min,
            })?;
        }
        Ok(true)
    }

    /// Matches again what a group holds; a group that holds nothing matches nothing.
    fn repeat_group(&mut self, position: &mut usize, group: usize, back: bool) -> Result<bool, Exhausted> {
        let (Some(start), Some(end)) = (self.slots[group * 2], self.slots[group * 2 + 1]) else {
            return Ok(true);
        };
        let held = &self.text[start..end];
        let (matched, to) = match back {
            true => (self.text[..*position].ends_with(held), position.checked_sub(held.len())),
            false => (self.text[*position..].starts_with(held), Some(*position + held.len())),
        };
        self.spend(held.len())?;
        match to {
            Some(to) if matched => {
                *position = to;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    fn save(&mut self, slot: usize, value: Option<usize>) -> Result<(), Exhausted> {
        let was = std::mem::replace(&mut self.slots[slot], value);
        self.push(Entry::Slot { slot, was })
    }

    fn set_register(&mut self, register: usize, value: usize) -> Result<(), Exhausted> {
        let was = std::mem::replace(&mut self.registers[register], value);
        self.push(Entry::Register { register, was })
    }

    /// Goes back to the newest branch above `floor`; false if there is none.
    fn back_track(&mut self, floor: usize, at: &mut usize, position: &mut usize) -> Result<bool, Exhausted> {
        while self.stack.len() > floor {
            self.spend(1)?;
            let Some(entry) = self.stack.pop() else { break };
            match entry {
                Entry::Branch {
                    at: branch,
                    position: was,
                } => {
                    (*at, *position) = (branch, was);
                    return Ok(true);
                }
                Entry::Shrink {
                    at: after,
                    position: was,
                    least,
                    back,
                } => {
                    let Some(c) = self.neighbour(was, !back) else { continue };
                    let shorter = moved(was, c, !back);
                    if shorter != least {
                        self.stack.push(Entry::Shrink {
                            at: after,
                            position: shorter,
                            least,
                            back,
                        });
                    }
                    (*at, *position) = (after, shorter);
                    return Ok(true);
                }
                Entry::Grow {
                    at: code,
                    position: was,
                    left,
                } => {
                    let Op::Run { set, back, .. } = self.program.code[code] else {
                        continue;
                    };
                    let mut longer = was;
                    if !self.advance(&mut longer, back, |c, sets| sets[set].contains(c)) {
                        continue;
                    }
                    if left > 1 {
                        self.stack.push(Entry::Grow {
                            at: code,
                            position: longer,
                            left: left - 1,
                        });
                    }
                    (*at, *position) = (code + 1, longer);
                    return Ok(true);
                }
                undo => self.undo(undo),
            }
        }
        Ok(false)
    }

    fn undo(&mut self, entry: Entry) {
        match entry {
            Entry::Slot { slot, was } => self.slots[slot] = was,
            Entry::Register { register, was } => self.registers[register] = was,
            Entry::Branch { .. } | Entry::Shrink { .. } | Entry::Grow { .. } => {}
        }
    }

    fn undo_to(&mut self, floor: usize) {
        while self.stack.len() > floor {
            if let Some(entry) = self.stack.pop() {
                self.undo(entry);
            }
        }
    }

    /// What was found stays found: only the way to undo it is kept.
    fn forget_branches(&mut self, floor: usize) {
        let mut kept = floor;
        for index in floor..self.stack.len() {
            if matches!(self.stack[index], Entry::Slot { .. } | Entry::Register { .. }) {
                self.stack[kept] = self.stack[index];
                kept += 1;
            }
        }
        self.stack.truncate(kept);
    }

    fn spans(&self) -> Spans {
        Spans(self.slots.chunks(2).map(|pair| Some((pair[0]?, pair[1]?))).collect())
    }
}

/// What [`Op::Run`] asks for.
struct Run {
    set: usize,
    min: u32,
    max: u32,
    greedy: bool,
    back: bool,
}

/// The position on the other side of `c`.
fn moved(position: usize, c: char, back: bool) -> usize {
    match back {
        true => position - c.len_utf8(),
        false => position + c.len_utf8(),
    }
}
