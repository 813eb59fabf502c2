//! Which attributes of some rows are to have columns, and what will not fit into them.

use std::collections::HashMap;

use arrow::record_batch::RecordBatch;
use spanlake_schema::promotion::{
    COLUMNS_MAX, NAME_BYTES_MAX, PromotedColumn, column_name, is_same_column, standing_column,
};
use spanlake_schema::{ColumnType, TableSpec};

use super::values::{Guess, Typed, for_each};
use super::{PromotionList, PromotionStats};
use crate::Result;

/// What rows have of attributes that have a column, or are to have one.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Survey {
    attributes: Vec<Surveyed>,
    /// What will not be promoted, whatever the table has.
    stats: PromotionStats,
}

/// What rows have of one attribute.
#[derive(Clone, Debug, PartialEq)]
struct Surveyed {
    column: PromotedColumn,
    /// Whether the table has the column.
    is_there: bool,
    texts: u64,
    ints: u64,
    /// Those of them that are no doubles.
    inexact: u64,
    doubles: u64,
    bools: u64,
    others: u64,
    /// The last row that has it, counted from 1 through all batches.
    row: u64,
}

impl Surveyed {
    fn new(column: PromotedColumn, is_there: bool) -> Self {
        Self { column, is_there, texts: 0, ints: 0, inexact: 0, doubles: 0, bools: 0, others: 0, row: 0 }
    }

    fn count(&mut self, value: Typed<'_>) {
        match value {
            Typed::Text(_) => self.texts += 1,
            Typed::Int(_) => {
                self.ints += 1;
                self.inexact += u64::from(!value.fits(ColumnType::Float64));
            }
            Typed::Double(_) => self.doubles += 1,
            Typed::Bool(_) => self.bools += 1,
            Typed::Empty => {}
            Typed::Other => self.others += 1,
        }
    }

    /// How many values a column of a type would not hold.
    fn conflicts(&self, column_type: ColumnType) -> u64 {
        let all = self.texts + self.ints + self.doubles + self.bools + self.others;
        let held = match column_type {
            ColumnType::Int64 => self.ints,
            ColumnType::Float64 => self.doubles + self.ints - self.inexact,
            ColumnType::Bool => self.bools,
            _ => self.texts,
        };
        all - held
    }
}

/// What is known of a name.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Found {
    Unwanted,
    /// Has a place among the attributes.
    At(usize),
    /// Is wanted, but had no value yet that a column could hold.
    Waiting,
    /// Is wanted and cannot have a column: its name is taken, or there is no room.
    Unnamed,
    NoRoom,
}

impl Survey {
    /// Looks through rows of a table that has some columns already. CPU work.
    pub(crate) fn of(
        spec: &TableSpec,
        list: &PromotionList,
        present: &[PromotedColumn],
        batches: &[RecordBatch],
    ) -> Result<Self> {
        let mut survey = Self::default();
        survey.attributes.extend(present.iter().map(|column| Surveyed::new(column.clone(), true)));
        if spec.attributes.is_empty() || (list.is_empty() && present.is_empty()) {
            return Ok(survey);
        }
        let mut known: HashMap<&str, Found> =
            present.iter().map(|column| column.attribute.as_str()).zip((0..).map(Found::At)).collect();
        let mut first_row = 1;
        let mut untyped_rows: HashMap<&str, u64> = HashMap::new();
        for batch in batches {
            let mut guess = Guess::default();
            for_each(spec, batch, |attribute| {
                let (name, row) = (attribute.name, first_row + attribute.row as u64);
                let mut found = guess.get(&attribute).filter(|found| *found != Found::Waiting).unwrap_or_else(|| {
                    let wants = || if list.wants(name) { Found::Waiting } else { Found::Unwanted };
                    *known.entry(name).or_insert_with(wants)
                });
                let value = if found == Found::Unwanted { Typed::Empty } else { attribute.value() };
                if found == Found::Waiting
                    && let Some(column_type) = value.column_type()
                {
                    found = survey.admit(spec, name, column_type);
                    known.insert(name, found);
                }
                guess.set(&attribute, found);
                // Of a name that a row has several times the first holds.
                let seen = match found {
                    Found::Unwanted => return,
                    Found::At(place) => &mut survey.attributes[place].row,
                    Found::Waiting | Found::Unnamed | Found::NoRoom => untyped_rows.entry(name).or_default(),
                };
                if std::mem::replace(seen, row) != row {
                    survey.count(found, value);
                }
            })?;
            first_row += batch.num_rows() as u64;
        }
        survey.widen();
        Ok(survey)
    }

    fn count(&mut self, found: Found, value: Typed<'_>) {
        match found {
            Found::At(place) => self.attributes[place].count(value),
            _ if value == Typed::Empty => {}
            Found::Waiting => self.stats.untyped += 1,
            Found::Unnamed => self.stats.unnamed += 1,
            Found::NoRoom => self.stats.beyond_limit += 1,
            Found::Unwanted => {}
        }
    }

    /// Gives a name a place, where it can have a column.
    fn admit(&mut self, spec: &TableSpec, attribute: &str, column_type: ColumnType) -> Found {
        let name = column_name(attribute);
        let is_taken = self.attributes.iter().any(|other| is_same_column(&other.column.name, &name));
        if is_taken || attribute.len() > NAME_BYTES_MAX || name.is_empty() || standing_column(spec, attribute).is_some()
        {
            return Found::Unnamed;
        }
        if self.attributes.len() >= COLUMNS_MAX {
            return Found::NoRoom;
        }
        let column = PromotedColumn { name, attribute: attribute.to_owned(), column_type };
        self.attributes.push(Surveyed::new(column, false));
        Found::At(self.attributes.len() - 1)
    }

    /// Of numbers that come together in a new column some may be integers only because their fraction is zero.
    fn widen(&mut self) {
        for new in self.attributes.iter_mut().filter(|surveyed| !surveyed.is_there) {
            if new.column.column_type == ColumnType::Int64 && new.doubles > 0 {
                new.column.column_type = ColumnType::Float64;
            }
        }
    }

    /// The columns that the table lacks.
    pub(crate) fn lacking(&self) -> Vec<PromotedColumn> {
        let new = self.attributes.iter().filter(|surveyed| !surveyed.is_there);
        new.map(|surveyed| surveyed.column.clone()).collect()
    }

    /// What will not be promoted where the table has these columns.
    pub(crate) fn stats(&self, present: &[PromotedColumn]) -> PromotionStats {
        let mut stats = self.stats.clone();
        for surveyed in &self.attributes {
            match present.iter().find(|column| column.attribute == surveyed.column.attribute) {
                Some(column) => {
                    let conflicts = surveyed.conflicts(column.column_type);
                    if conflicts > 0 {
                        *stats.conflicts.entry(column.name.clone()).or_default() += conflicts;
                    }
                }
                // Another process was faster, with another attribute of the same column, or to the last place.
                None => stats.unnamed += surveyed.conflicts(ColumnType::Text) + surveyed.texts,
            }
        }
        stats
    }

    /// Takes in what other rows have, which were looked through later and against the same columns.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.stats.add(&other.stats);
        for surveyed in &other.attributes {
            let known = self.attributes.iter_mut().find(|one| one.column.attribute == surveyed.column.attribute);
            let Some(known) = known else {
                self.attributes.push(surveyed.clone());
                continue;
            };
            known.texts += surveyed.texts;
            known.ints += surveyed.ints;
            known.inexact += surveyed.inexact;
            known.doubles += surveyed.doubles;
            known.bools += surveyed.bools;
            known.others += surveyed.others;
        }
        self.widen();
    }
}
