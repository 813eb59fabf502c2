//! Attribute names that this body had before.
//!
//! A body has a few dozen names, each of them thousands of times. What the rules know of a name is looked up once.

use crate::content::{ContentRules, Hit};
use crate::rules::{Known, Rules};

/// Names remembered of one body.
const NAMES_MAX: usize = 256;

/// Places to find them at; a name that finds its place taken is looked up each time.
const SLOTS: usize = 1024;

/// What the rules know of a name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Meant<'w> {
    pub(super) known: Option<Known<'w>>,
    pub(super) content: Option<Hit>,
}

#[derive(Debug)]
struct Seen<'a, 'w> {
    name: &'a [u8],
    meant: Meant<'w>,
}

/// The names of one body.
#[derive(Debug)]
pub(super) struct Keys<'a, 'w> {
    rules: &'w Rules,
    content: &'w ContentRules,
    seen: Vec<Seen<'a, 'w>>,
    /// The place in `seen` plus one; 0 where there is none.
    slots: Vec<u16>,
}

/// A slot by the name's length and its last sixteen bytes, in which names differ.
#[inline]
fn slot(name: &[u8]) -> usize {
    let word = |end: usize| match name[..end].last_chunk::<8>() {
        Some(chunk) => u64::from_le_bytes(*chunk),
        None => name[..end].iter().fold(0, |word, &byte| word << 8 | u64::from(byte)),
    };
    let (last, before) = (word(name.len()), word(name.len().saturating_sub(8)));
    let mixed = (last ^ before.rotate_left(29) ^ name.len() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 54) as usize % SLOTS
}

impl<'a, 'w> Keys<'a, 'w> {
    pub(super) fn new(rules: &'w Rules, content: &'w ContentRules) -> Self {
        Self { rules, content, seen: Vec::new(), slots: Vec::new() }
    }

    /// What the rules know of a name.
    #[inline]
    pub(super) fn find(&mut self, name: &'a [u8]) -> Meant<'w> {
        let slot = slot(name);
        if let Some(seen) = self.slots.get(slot).and_then(|&at| self.seen.get(usize::from(at).wrapping_sub(1)))
            && seen.name == name
        {
            return seen.meant;
        }
        self.look_up(name, slot)
    }

    fn look_up(&mut self, name: &'a [u8], slot: usize) -> Meant<'w> {
        let meant = Meant { known: self.rules.find(name), content: self.content.find(name) };
        if self.slots.is_empty() {
            self.slots = vec![0; SLOTS];
        }
        if self.slots[slot] == 0 && self.seen.len() < NAMES_MAX {
            self.seen.push(Seen { name, meant });
            self.slots[slot] = self.seen.len() as u16;
        }
        meant
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: a body with more names than are remembered, ordinary ones, such with numbers, and ones that end alike, each several
    /// times. Guarantee: each time the rules' own answer.
    #[test]
    fn what_is_remembered_of_a_name_is_what_the_rules_say() {
        let (rules, content) = (Rules::built_in(), ContentRules::built_in());
        let fixed = ["gen_ai.request.model", "http.route", "gen_ai.input.messages", "model", "", "x", "input.value"];
        let numbered = (0..200).flat_map(|number| {
            let ends = ["role", "content", "finish_reason", "tool_calls.7.name"];
            ends.map(|end| format!("gen_ai.prompt.{number}.{end}"))
        });
        let names: Vec<String> = fixed.map(str::to_owned).into_iter().chain(numbered).collect();
        let mut keys = Keys::new(&rules, &content);
        let mut known = 0;
        for name in names.iter().chain(&names).chain(names.iter().rev()) {
            let meant = keys.find(name.as_bytes());
            let asked = Meant { known: rules.find(name.as_bytes()), content: content.find(name.as_bytes()) };
            assert_eq!(format!("{meant:?}"), format!("{asked:?}"), "{name}");
            known += usize::from(asked.known.is_some() || asked.content.is_some());
        }
        assert!(known > 3 * NAMES_MAX && keys.seen.len() == NAMES_MAX, "{known} {}", keys.seen.len());
    }
}
