//! From nested columns to leaves: Dremel's repetition and definition levels.
//!
//! A *slot* is a place in a leaf's array. Of each row, list and struct the levels say how much of it is there, and the slots
//! which values follow.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, Field};

/// A step from a column towards its leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    List,
    Map,
    Field(usize),
}

/// Where a leaf lies, and what its levels count.
#[derive(Clone, Debug)]
pub(in crate::segment) struct Leaf {
    /// Its column in the batches.
    pub(in crate::segment) column: usize,
    pub(in crate::segment) path: Vec<String>,
    pub(in crate::segment) data_type: DataType,
    steps: Vec<Step>,
    /// For the column and what each step leads to, whether it may be NULL.
    nullable: Vec<bool>,
}

impl Leaf {
    /// The leaves of a column, depth first, as Parquet orders them.
    pub(super) fn of(column: usize, field: &Field) -> Vec<Self> {
        let root = Self {
            column,
            path: vec![field.name().clone()],
            data_type: field.data_type().clone(),
            steps: Vec::new(),
            nullable: vec![field.is_nullable()],
        };
        root.descend()
    }

    fn descend(self) -> Vec<Self> {
        match self.data_type.clone() {
            DataType::List(item) => self.below(Step::List, &["list", item.name()], &item).descend(),
            DataType::Map(entries, _) => self.below(Step::Map, &[entries.name()], &entries).descend(),
            DataType::Struct(fields) => {
                let child =
                    |(index, field): (usize, &Arc<Field>)| self.below(Step::Field(index), &[field.name()], field);
                fields.iter().enumerate().map(child).flat_map(Self::descend).collect()
            }
            _ => vec![self],
        }
    }

    fn below(&self, step: Step, names: &[&str], field: &Field) -> Self {
        let mut below = self.clone();
        below.steps.push(step);
        below.path.extend(names.iter().map(|name| (*name).to_owned()));
        below.nullable.push(field.is_nullable());
        below.data_type = field.data_type().clone();
        below
    }

    /// Whether every row has one slot, so that there are no repetition levels.
    pub(in crate::segment) fn is_flat(&self) -> bool {
        self.steps.is_empty()
    }

    pub(super) fn is_nullable(&self) -> bool {
        self.nullable[0]
    }

    /// The highest repetition level: how many lists lie around a value.
    pub(super) fn repetition_max(&self) -> u8 {
        self.steps.iter().filter(|step| !matches!(step, Step::Field(_))).count() as u8
    }

    /// The highest definition level: how many lists and NULLs could keep a value from being there.
    pub(super) fn definition_max(&self) -> u8 {
        self.repetition_max() + self.nullable.iter().filter(|nullable| **nullable).count() as u8
    }

    /// The leaf's array, and of it what rows of the column may reach: an upper bound of what they hold.
    pub(super) fn reach(&self, column: &ArrayRef, rows: Range<usize>) -> (ArrayRef, Range<usize>) {
        let (mut array, mut range) = (Arc::clone(column), rows);
        for step in &self.steps {
            (array, range) = match step {
                Step::Field(index) => (Arc::clone(array.as_struct().column(*index)), range),
                Step::List | Step::Map => {
                    let (offsets, items) = lists(&array, *step);
                    (items, offsets[range.start] as usize..offsets[range.end] as usize)
                }
            };
        }
        (array, range)
    }

    /// Adds the levels of some rows to `levels`, and returns the leaf's array and its slots that hold values.
    pub(super) fn levels(&self, column: &ArrayRef, rows: Range<usize>, levels: &mut Levels) -> (ArrayRef, Slots) {
        if self.is_flat() {
            return (Arc::clone(column), levels.flat(column, rows, self.is_nullable()));
        }
        let mut walk = Walk {
            repetition: vec![0; rows.len()],
            definition: vec![0; rows.len()],
            slots: rows.map(|row| row as u32).collect(),
            defined: 0,
            repeated: 0,
        };
        let mut array = Arc::clone(column);
        walk.nulls(&array, self.nullable[0]);
        for (step, nullable) in self.steps.iter().zip(&self.nullable[1..]) {
            array = match step {
                Step::Field(index) => Arc::clone(array.as_struct().column(*index)),
                Step::List | Step::Map => {
                    let (offsets, items) = lists(&array, *step);
                    walk.list(offsets);
                    items
                }
            };
            walk.nulls(&array, *nullable);
        }
        levels.repetition.extend_from_slice(&walk.repetition);
        levels.definition.extend_from_slice(&walk.definition);
        (array, Slots::of(walk.slots))
    }
}

fn lists(array: &ArrayRef, step: Step) -> (&[i32], ArrayRef) {
    match step {
        Step::Map => {
            let map = array.as_map();
            (map.offsets(), Arc::new(map.entries().clone()))
        }
        _ => {
            let list = array.as_list::<i32>();
            (list.offsets(), Arc::clone(list.values()))
        }
    }
}

/// The levels of a page.
#[derive(Debug, Default)]
pub(super) struct Levels {
    /// Of nested leaves, one an entry.
    pub(super) repetition: Vec<u8>,
    pub(super) definition: Vec<u8>,
    /// Of flat nullable leaves in place of definition levels: a bit a row.
    pub(super) valid: Vec<u8>,
    pub(super) valid_count: usize,
    /// Rows of flat leaves.
    pub(super) rows: usize,
}

impl Levels {
    pub(super) fn clear(&mut self) {
        self.repetition.clear();
        self.definition.clear();
        self.valid.clear();
        self.valid_count = 0;
        self.rows = 0;
    }

    /// Entries: values and what stands for those that are not there.
    pub(super) fn entries(&self) -> usize {
        if self.definition.is_empty() { self.rows } else { self.definition.len() }
    }

    fn flat(&mut self, column: &ArrayRef, rows: Range<usize>, nullable: bool) -> Slots {
        let nulls = column.nulls().filter(|_| nullable).map(|nulls| nulls.slice(rows.start, rows.len()));
        let nulls = nulls.filter(|nulls| nulls.null_count() > 0);
        if nullable {
            self.valid.resize((self.rows + rows.len()).div_ceil(8), 0);
            match &nulls {
                Some(nulls) => {
                    arrow::util::bit_mask::set_bits(
                        &mut self.valid,
                        nulls.validity(),
                        self.rows,
                        nulls.offset(),
                        rows.len(),
                    );
                }
                None => set_ones(&mut self.valid, self.rows..self.rows + rows.len()),
            }
        }
        self.rows += rows.len();
        match nulls {
            Some(nulls) => {
                self.valid_count += rows.len() - nulls.null_count();
                Slots::of(nulls.valid_indices().map(|index| (rows.start + index) as u32).collect())
            }
            None => {
                self.valid_count += rows.len();
                Slots::Range(rows)
            }
        }
    }
}

fn set_ones(bits: &mut [u8], range: Range<usize>) {
    let (first, last) = (range.start.div_ceil(8), range.end / 8);
    if first < last {
        bits[first..last].fill(0xff);
    }
    let edges = (range.start..range.end.min(first * 8)).chain((last * 8).max(range.start)..range.end);
    for bit in edges {
        bits[bit / 8] |= 1 << (bit % 8);
    }
}

/// The slots of a leaf's array that hold the values of some rows, in order.
#[derive(Debug)]
pub(super) enum Slots {
    Range(Range<usize>),
    List(Vec<u32>),
}

impl Slots {
    fn of(list: Vec<u32>) -> Self {
        match (list.first(), list.last()) {
            (Some(&first), Some(&last)) if (last - first) as usize + 1 == list.len() => {
                Self::Range(first as usize..last as usize + 1)
            }
            (None, _) => Self::Range(0..0),
            _ => Self::List(list),
        }
    }

    /// Calls for each run of neighbouring slots.
    pub(super) fn for_each_run(&self, mut work: impl FnMut(Range<usize>)) {
        match self {
            Self::Range(range) => {
                if !range.is_empty() {
                    work(range.clone());
                }
            }
            Self::List(list) => {
                let mut rest = list.as_slice();
                while let Some((&first, _)) = rest.split_first() {
                    let run = (first..).zip(rest).take_while(|(next, slot)| next == *slot).count();
                    work(first as usize..first as usize + run);
                    rest = &rest[run..];
                }
            }
        }
    }
}

/// Entries of some rows on the way down to a leaf. Those whose definition level is `defined` have a slot each in the array
/// that the walk has come to.
struct Walk {
    repetition: Vec<u8>,
    definition: Vec<u8>,
    slots: Vec<u32>,
    defined: u8,
    repeated: u8,
}

impl Walk {
    fn nulls(&mut self, array: &ArrayRef, nullable: bool) {
        if !nullable {
            return;
        }
        let nulls = array.nulls().filter(|nulls| nulls.null_count() > 0);
        let is_null = |slot: u32| nulls.is_some_and(|nulls| nulls.is_null(slot as usize));
        let mut kept = 0;
        let defined = self.definition.iter_mut().filter(|definition| **definition == self.defined);
        for (entry, definition) in defined.enumerate() {
            let slot = self.slots[entry];
            if !is_null(slot) {
                *definition += 1;
                self.slots[kept] = slot;
                kept += 1;
            }
        }
        self.slots.truncate(kept);
        self.defined += 1;
    }

    fn list(&mut self, offsets: &[i32]) {
        self.repeated += 1;
        let mut below = Self {
            repetition: Vec::with_capacity(self.repetition.len() * 2),
            definition: Vec::with_capacity(self.definition.len() * 2),
            slots: Vec::with_capacity(self.slots.len() * 2),
            defined: self.defined + 1,
            repeated: self.repeated,
        };
        let mut slots = self.slots.iter();
        for (&repetition, &definition) in self.repetition.iter().zip(&self.definition) {
            let items = match slots.as_slice().first() {
                Some(&slot) if definition == self.defined => {
                    slots.next();
                    offsets[slot as usize] as u32..offsets[slot as usize + 1] as u32
                }
                _ => 0..0,
            };
            let count = items.len();
            if count == 0 {
                below.repetition.push(repetition);
                below.definition.push(definition);
                continue;
            }
            below.repetition.push(repetition);
            below.repetition.resize(below.repetition.len() + count - 1, self.repeated);
            below.definition.resize(below.definition.len() + count, below.defined);
            below.slots.extend(items);
        }
        *self = below;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ones_are_set_where_asked() {
        for (start, end) in [(0, 0), (0, 8), (3, 5), (3, 8), (7, 9), (5, 31), (8, 16), (9, 15), (1, 24)] {
            let mut bits = [0; 4];
            set_ones(&mut bits, start..end);
            for bit in 0..32 {
                assert_eq!(bits[bit / 8] >> (bit % 8) & 1 == 1, (start..end).contains(&bit), "{start}..{end}: {bit}");
            }
        }
    }
}
