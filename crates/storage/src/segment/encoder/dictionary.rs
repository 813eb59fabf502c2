//! Dictionaries of text: values to indices, each value hashed once and often not at all.

use arrow::array::StringArray;

use super::leaves::Slots;

/// A dictionary beyond this many bytes costs more than it saves.
const BYTES_MAX: usize = 1 << 20;
/// After so many values a dictionary has to have paid: at most a third of them may be new.
const TRIAL_VALUES: usize = 4096;

const EMPTY: u32 = u32::MAX;
/// Places of the table at first.
const TABLE_PLACES: usize = 256;

/// Distinct values in the order of their first appearance.
#[derive(Debug)]
pub(super) struct Dictionary {
    /// PLAIN: each value behind its length in four bytes.
    pub(super) plain: Vec<u8>,
    entries: Vec<Entry>,
    /// By hash, an entry's index. A power of two, at most half full.
    table: Vec<u32>,
    /// The index of every value so far.
    pub(super) indices: Vec<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    hash: u64,
    start: u32,
    length: u32,
    /// What followed it last: keys of attributes come in the same order again and again.
    next: u32,
}

impl Dictionary {
    pub(super) fn new() -> Self {
        Self { plain: Vec::new(), entries: Vec::new(), table: vec![EMPTY; TABLE_PLACES], indices: Vec::new() }
    }

    /// Forgets all values, and keeps its memory.
    pub(super) fn clear(&mut self) {
        self.plain.clear();
        self.entries.clear();
        self.table.clear();
        self.table.resize(TABLE_PLACES, EMPTY);
        self.indices.clear();
    }

    /// How many values it has.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Adds values. Returns whether it is still worth having.
    pub(super) fn add(&mut self, array: &StringArray, slots: &Slots) -> bool {
        let (offsets, bytes) = (array.value_offsets(), array.value_data());
        let mut worth = true;
        slots.for_each_run(|run| {
            if !worth {
                return;
            }
            for ends in offsets[run.start..=run.end].windows(2) {
                let index = self.index_of(&bytes[ends[0] as usize..ends[1] as usize]);
                self.indices.push(index);
            }
            let seen = self.indices.len();
            worth = self.plain.len() <= BYTES_MAX && (seen < TRIAL_VALUES || self.len() * 3 <= seen);
        });
        worth
    }

    #[inline]
    fn index_of(&mut self, value: &[u8]) -> u32 {
        let last = self.indices.last().copied();
        if let Some(last) = last {
            let guess = self.entries[last as usize].next;
            if equal(self.value(guess), value) {
                return guess;
            }
        }
        let index = self.look_up(value);
        if let Some(last) = last {
            self.entries[last as usize].next = index;
        }
        index
    }

    #[inline]
    fn value(&self, index: u32) -> &[u8] {
        let entry = self.entries[index as usize];
        &self.plain[entry.start as usize..(entry.start + entry.length) as usize]
    }

    fn look_up(&mut self, value: &[u8]) -> u32 {
        let hash = hash(value);
        let mask = self.table.len() - 1;
        let mut place = hash as usize & mask;
        loop {
            let index = self.table[place];
            if index == EMPTY {
                break;
            }
            if self.entries[index as usize].hash == hash && equal(self.value(index), value) {
                return index;
            }
            place = (place + 1) & mask;
        }
        let index = self.entries.len() as u32;
        self.plain.extend_from_slice(&(value.len() as u32).to_le_bytes());
        let start = self.plain.len() as u32;
        self.plain.extend_from_slice(value);
        self.entries.push(Entry { hash, start, length: value.len() as u32, next: index });
        self.table[place] = index;
        if self.entries.len() * 2 > self.table.len() {
            self.grow();
        }
        index
    }

    fn grow(&mut self) {
        let size = self.table.len() * 4;
        self.table.clear();
        self.table.resize(size, EMPTY);
        for (index, entry) in (0..).zip(&self.entries) {
            let mut place = entry.hash as usize & (size - 1);
            while self.table[place] != EMPTY {
                place = (place + 1) & (size - 1);
            }
            self.table[place] = index;
        }
    }
}

#[inline]
fn equal(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one == other
}

const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

#[inline]
fn mix(one: u64, other: u64) -> u64 {
    let product = u128::from(one ^ SEED) * u128::from(other ^ 0xd6e8_feb8_6659_fd93);
    product as u64 ^ (product >> 64) as u64
}

/// Not for keys that an adversary chooses a table's speed by: a dictionary is given up before it is slow.
#[inline]
fn hash(bytes: &[u8]) -> u64 {
    let word = |at: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&bytes[at..at + 8]);
        u64::from_le_bytes(word)
    };
    let length = bytes.len() as u64;
    match bytes.len() {
        0..8 => {
            let mut word = [0; 8];
            word[..bytes.len()].copy_from_slice(bytes);
            mix(u64::from_le_bytes(word), length)
        }
        8..=16 => mix(word(0), word(bytes.len() - 8) ^ length),
        _ => {
            let mut state = length;
            for at in (0..bytes.len() - 8).step_by(8) {
                state = mix(state, word(at));
            }
            mix(state, word(bytes.len() - 8))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(dictionary: &Dictionary) -> Vec<String> {
        let text = |index: &u32| String::from_utf8(dictionary.value(*index).to_vec()).expect("text");
        dictionary.indices.iter().map(text).collect()
    }

    proptest::proptest! {
        #[test]
        fn indices_lead_back_to_their_values(words in proptest::collection::vec("[ab]{0,3}|[a-c]{6,20}", 1..600)) {
            let array = StringArray::from(words.clone());
            let mut dictionary = Dictionary::new();
            proptest::prop_assert!(dictionary.add(&array, &Slots::Range(0..words.len())));
            proptest::prop_assert_eq!(values(&dictionary), words.clone());
            let distinct: std::collections::BTreeSet<_> = words.iter().collect();
            proptest::prop_assert_eq!(dictionary.len(), distinct.len());
        }
    }

    #[test]
    fn a_dictionary_of_values_that_do_not_repeat_is_given_up() {
        let array = StringArray::from_iter_values((0..TRIAL_VALUES).map(|number| number.to_string()));
        assert!(!Dictionary::new().add(&array, &Slots::Range(0..TRIAL_VALUES)));
        let large = StringArray::from(vec!["x".repeat(BYTES_MAX); 1]);
        assert!(!Dictionary::new().add(&large, &Slots::Range(0..1)));
    }
}
