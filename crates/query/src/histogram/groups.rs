//! Histograms of many groups at once.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BinaryArray, BooleanArray};
use arrow::buffer::NullBuffer;
use datafusion::error::Result;
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};
use spanlake_metrics::{Histogram, Kind};

use super::column::{Writer, plain};
use super::refused;
use super::values::{Number, Numbers, Rows, passing};

/// From this many rows a group on, on average, sorting the rows of a batch by group pays.
const ROWS_A_GROUP: usize = 8;

/// The histogram of each group, `None` where it has no value yet.
#[derive(Debug)]
pub(super) struct HistogramGroups {
    function: &'static str,
    /// What the values are; `None` where they are histograms.
    kind: Option<Kind>,
    groups: Slots,
    units: Sorter<i64>,
    wide: Sorter<i128>,
    doubles: Sorter<f64>,
}

impl HistogramGroups {
    pub(super) fn new(function: &'static str, kind: Option<Kind>) -> Self {
        let (groups, units, wide, doubles) = Default::default();
        Self { function, kind, groups, units, wide, doubles }
    }

    fn insert(&mut self, kind: Kind, rows: &Rows, groups: &[usize]) -> spanlake_metrics::Result<()> {
        let slots = &mut self.groups;
        match &rows.numbers {
            Numbers::Units(units) => slots.insert(kind, rows, units, groups, &mut self.units),
            Numbers::Wide(units) => slots.insert(kind, rows, units, groups, &mut self.wide),
            Numbers::Doubles(doubles) => slots.insert(kind, rows, doubles, groups, &mut self.doubles),
        }
    }

    fn merge(&mut self, column: &ArrayRef, counting: Option<&NullBuffer>, groups: &[usize]) -> Result<()> {
        let column = plain(column)?;
        for (row, &group) in groups.iter().enumerate() {
            if column.is_null(row) || counting.is_some_and(|counting| counting.is_null(row)) {
                continue;
            }
            let merged = Histogram::decode(column.value(row)).and_then(|histogram| self.groups.merge(group, histogram));
            merged.map_err(|error| refused(self.function, error))?;
        }
        Ok(())
    }

    fn emit(&mut self, emit_to: EmitTo) -> Result<BinaryArray> {
        let emitted = self.groups.take(emit_to);
        let mut writer = Writer::new(emitted.len());
        emitted.iter().try_for_each(|histogram| writer.push(histogram.as_deref()))?;
        Ok(writer.finish())
    }
}

#[cfg(test)]
impl HistogramGroups {
    /// Bytes of the histograms that are there.
    pub(super) fn heap_bytes(&self) -> usize {
        let there = self.groups.histograms.iter().flatten().map(|histogram| histogram.memory_bytes()).sum::<usize>();
        assert_eq!(there, self.groups.heap_bytes, "every change of a histogram's size is counted");
        there
    }
}

impl GroupsAccumulator for HistogramGroups {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        self.groups.resize(total_num_groups);
        match self.kind {
            Some(kind) => {
                let rows = Rows::new(self.function, values, opt_filter)?;
                self.insert(kind, &rows, group_indices).map_err(|error| refused(self.function, error))
            }
            None => self.merge(&values[0], passing(opt_filter).as_ref(), group_indices),
        }
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        Ok(Arc::new(self.emit(emit_to)?))
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        Ok(vec![Arc::new(self.emit(emit_to)?)])
    }

    fn merge_batch(&mut self, values: &[ArrayRef], group_indices: &[usize], total_num_groups: usize) -> Result<()> {
        self.groups.resize(total_num_groups);
        self.merge(&values[0], None, group_indices)
    }

    fn convert_to_state(&self, values: &[ArrayRef], opt_filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        let Some(kind) = self.kind else {
            let (ends, bytes, present) = plain(&values[0])?.into_parts();
            let present = NullBuffer::union(present.as_ref(), passing(opt_filter).as_ref());
            return Ok(vec![Arc::new(BinaryArray::new(ends, bytes, present))]);
        };
        let rows = Rows::new(self.function, values, opt_filter)?;
        let mut writer = Writer::new(values[0].len());
        for row in 0..values[0].len() {
            let mut histogram = (rows.weight(row) > 0).then(|| Histogram::new(kind));
            if let Some(histogram) = &mut histogram {
                rows.insert_row(row, histogram).map_err(|error| refused(self.function, error))?;
            }
            writer.push(histogram.as_ref())?;
        }
        Ok(vec![Arc::new(writer.finish())])
    }

    fn size(&self) -> usize {
        size_of::<Self>() + self.groups.bytes() + self.units.bytes() + self.wide.bytes() + self.doubles.bytes()
    }
}

/// Histograms by group, and how much memory they take.
#[derive(Debug, Default)]
struct Slots {
    // Behind a pointer each: many groups grow the vector over and over.
    histograms: Vec<Option<Box<Histogram>>>,
    heap_bytes: usize,
}

impl Slots {
    fn resize(&mut self, groups: usize) {
        self.histograms.resize_with(groups, || None);
    }

    fn bytes(&self) -> usize {
        self.histograms.capacity() * size_of::<Option<Box<Histogram>>>() + self.heap_bytes
    }

    fn take(&mut self, emit_to: EmitTo) -> Vec<Option<Box<Histogram>>> {
        let taken = emit_to.take_needed(&mut self.histograms);
        let freed = taken.iter().flatten().map(|histogram| histogram.memory_bytes()).sum::<usize>();
        self.heap_bytes -= freed;
        taken
    }

    fn merge(&mut self, group: usize, other: Histogram) -> spanlake_metrics::Result<()> {
        match &mut self.histograms[group] {
            Some(histogram) => {
                self.heap_bytes -= histogram.memory_bytes();
                let merged = histogram.merge(&other);
                self.heap_bytes += histogram.memory_bytes();
                merged
            }
            empty => {
                self.heap_bytes += other.memory_bytes();
                *empty = Some(Box::new(other));
                Ok(())
            }
        }
    }

    /// Changes the histogram of a group, which is made where there is none.
    #[inline]
    fn change(
        &mut self,
        kind: Kind,
        group: usize,
        change: impl FnOnce(&mut Histogram) -> spanlake_metrics::Result<()>,
    ) -> spanlake_metrics::Result<()> {
        let slot = &mut self.histograms[group];
        self.heap_bytes -= slot.as_ref().map_or(0, |histogram| histogram.memory_bytes());
        let histogram = slot.get_or_insert_with(|| Box::new(Histogram::new(kind)));
        let changed = change(histogram);
        self.heap_bytes += histogram.memory_bytes();
        changed
    }

    /// Adds the numbers of a batch to their groups.
    fn insert<T: Number>(
        &mut self,
        kind: Kind,
        rows: &Rows,
        numbers: &[T],
        groups: &[usize],
        sorter: &mut Sorter<T>,
    ) -> spanlake_metrics::Result<()> {
        if rows.weights.is_some() {
            let counting = (0..numbers.len()).map(|row| (row, rows.weight(row))).filter(|(_, weight)| *weight > 0);
            for (row, weight) in counting {
                self.change(kind, groups[row], |histogram| numbers[row].insert(histogram, weight))?;
            }
            return Ok(());
        }
        let totals = self.histograms.len();
        if totals > 1 && totals * ROWS_A_GROUP <= numbers.len() {
            sorter.sort(numbers, groups, rows.counting.as_ref(), totals);
            return sorter
                .runs()
                .try_for_each(|(group, run)| self.change(kind, group, |histogram| T::insert_all(run, histogram)));
        }
        // Rows of one group often stand side by side, as where the input is sorted.
        let mut insert = |start: usize, end: usize| {
            let mut start = start;
            for run in groups[start..end].chunk_by(|left, right| left == right) {
                let numbers = &numbers[start..start + run.len()];
                start += run.len();
                self.change(kind, run[0], |histogram| match numbers {
                    [number] => number.insert(histogram, 1),
                    numbers => T::insert_all(numbers, histogram),
                })?;
            }
            Ok(())
        };
        match &rows.counting {
            None => insert(0, numbers.len()),
            Some(counting) => counting.valid_slices().try_for_each(|(start, end)| insert(start, end)),
        }
    }
}

/// Brings the numbers of a batch into the order of their groups, in memory that is used again.
#[derive(Debug, Default)]
struct Sorter<T> {
    /// Where the numbers of each group end.
    ends: Vec<usize>,
    sorted: Vec<T>,
}

impl<T: Number> Sorter<T> {
    fn bytes(&self) -> usize {
        self.ends.capacity() * size_of::<usize>() + self.sorted.capacity() * size_of::<T>()
    }

    fn sort(&mut self, numbers: &[T], groups: &[usize], counting: Option<&NullBuffer>, totals: usize) {
        match counting {
            None => self.sort_rows(numbers, groups, totals, || 0..numbers.len()),
            Some(counting) => self.sort_rows(numbers, groups, totals, || counting.valid_indices()),
        }
    }

    fn sort_rows<R: Iterator<Item = usize>>(
        &mut self,
        numbers: &[T],
        groups: &[usize],
        totals: usize,
        rows: impl Fn() -> R,
    ) {
        self.ends.clear();
        self.ends.resize(totals, 0);
        rows().for_each(|row| self.ends[groups[row]] += 1);
        let mut before = 0;
        for end in self.ends.iter_mut() {
            before += std::mem::replace(end, before);
        }
        self.sorted.clear();
        self.sorted.resize(before, T::default());
        // Each end starts as the place of the group's first number, and each number moves it on.
        for row in rows() {
            let place = &mut self.ends[groups[row]];
            self.sorted[*place] = numbers[row];
            *place += 1;
        }
    }

    /// Each group that has any numbers, and these.
    fn runs(&self) -> impl Iterator<Item = (usize, &[T])> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        let runs = starts.zip(self.ends.iter().copied()).map(|(start, end)| &self.sorted[start..end]);
        runs.enumerate().filter(|(_, run)| !run.is_empty())
    }
}
