use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use arrow::datatypes::{DataType, Schema};
use datafusion::scalar::ScalarValue;
use datafusion::sql::parser::{DFParser, Statement};
use datafusion::sql::resolve::resolve_table_references;
use datafusion::sql::sqlparser::ast::Statement as SqlStatement;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};
use spanlake_schema::{DATE, TABLES, TableSpec};

use super::restate::{REVISION, WINDOW_START};
use super::windows::{DAY_MICROS, day_of};
use crate::sql_file::{Header, error_at};
use crate::{Parameters, QueryError};

/// Start of the windows asked for, a timestamp; inclusive.
const PARAMETER_WINDOW_START: &str = "window_start";
/// End of the windows asked for, a timestamp; exclusive.
const PARAMETER_WINDOW_END: &str = "window_end";
/// UTC day of the first moment asked for; inclusive.
const PARAMETER_FIRST_DATE: &str = "first_date";
/// UTC day of the last moment asked for; inclusive.
const PARAMETER_LAST_DATE: &str = "last_date";

const PARAMETERS: [&str; 4] = [PARAMETER_WINDOW_START, PARAMETER_WINDOW_END, PARAMETER_FIRST_DATE, PARAMETER_LAST_DATE];

/// What the header of a rollup tells.
const HEADER_KEYS: &[&str] = &["name", "source", "schedule", "window", "keys"];

/// The rollups that come with the product: file and text.
pub(super) const BUILT_IN: &[(&str, &str)] =
    &[("sql/rollups/model_usage_hour.sql", include_str!("../../../../sql/rollups/model_usage_hour.sql"))];

/// A rollup as its SQL file has it: a header of `-- key: value` lines, and a SELECT.
#[derive(Clone, Debug)]
pub(super) struct Definition {
    /// The rollup's and its table's name.
    pub(super) name: String,
    /// The table it reads.
    pub(super) source: &'static TableSpec,
    /// The table it fills.
    pub(super) target: &'static TableSpec,
    /// The schedule as written.
    pub(super) schedule: String,
    /// Time from one run to the next.
    pub(super) every: Duration,
    /// Length of a window in microseconds; divides a day.
    pub(super) window_micros: i64,
    /// The columns that, with `window_start`, make a row.
    pub(super) keys: Vec<String>,
    /// The SELECT, with the comments before it so that lines count as in the file.
    pub(super) select: String,
    /// Names of the parameters that the SELECT has.
    parameters: BTreeSet<String>,
    /// Path of the file, for messages.
    file: String,
    /// Line of the file at which the SELECT starts.
    select_line: usize,
}

impl Definition {
    /// Reads a rollup's file and checks all that can be checked without planning its SELECT.
    pub(super) fn parse(file: &str, text: &str) -> Result<Self, QueryError> {
        let header = Header::parse(file, text, HEADER_KEYS)?;
        let name = header.name()?;
        let target = table(&name.value)
            .ok_or_else(|| header.error(name, format!("no table {} is known to hold the rollup", name.value)))?;
        let source_entry = header.required("source")?;
        let source = table(&source_entry.value)
            .ok_or_else(|| header.error(source_entry, format!("source {} is no known table", source_entry.value)))?;
        let schedule = header.required("schedule")?;
        let every =
            schedule.value.strip_prefix("every ").and_then(parse_duration).ok_or_else(|| {
                header.error(schedule, format!("schedule {:?} is not like `every 1m`", schedule.value))
            })?;
        let window_entry = header.required("window")?;
        let window_micros = parse_duration(&window_entry.value)
            .and_then(|window| i64::try_from(window.as_micros()).ok())
            .filter(|micros| DAY_MICROS % micros == 0)
            .ok_or_else(|| {
                let message = format!("window {:?} is no duration, such as 1h, that divides a day", window_entry.value);
                header.error(window_entry, message)
            })?;
        let keys = parse_keys(&header, target)?;
        let mut definition = Self {
            name: name.value.clone(),
            source,
            target,
            schedule: schedule.value.clone(),
            every,
            window_micros,
            keys,
            select: text.trim_end().trim_end_matches(';').to_owned(),
            parameters: BTreeSet::new(),
            file: file.to_owned(),
            select_line: header.select_line,
        };
        definition.parameters = definition.read_parameters()?;
        definition.check_statement()?;
        Ok(definition)
    }

    /// Checks the columns that the planned SELECT returns against the table: every column but `date` and `revision`, which
    /// the run adds, none else, each of its type.
    pub(super) fn check_output(&self, output: &Schema) -> Result<(), QueryError> {
        let expected: Vec<_> =
            self.target.columns.iter().filter(|column| column.name != DATE && column.name != REVISION).collect();
        for column in &expected {
            let found: Vec<_> = output.fields().iter().filter(|field| field.name() == column.name).collect();
            let message = match found.as_slice() {
                [] => format!("the select returns no column {} for table {}", column.name, self.name),
                [field] if !same_type(field.data_type(), &column.column_type.arrow_type()) => format!(
                    "the select returns column {} as {}, table {} has {}",
                    column.name,
                    field.data_type(),
                    self.name,
                    column.column_type.arrow_type()
                ),
                [_] => continue,
                _ => format!("the select returns column {} more than once", column.name),
            };
            return Err(self.error(message));
        }
        match output.fields().iter().find(|field| expected.iter().all(|column| column.name != field.name())) {
            Some(field) => {
                Err(self.error(format!("the select returns column {}, table {} has none", field.name(), self.name)))
            }
            None => Ok(()),
        }
    }

    /// The values of the SELECT's parameters for a half-open range of event times.
    pub(super) fn parameters(&self, range: &Range<i64>) -> Parameters {
        let time = |micros| ScalarValue::TimestampMicrosecond(Some(micros), Some("UTC".into()));
        let date = |micros| ScalarValue::Date32(Some(day_of(micros)));
        let values = [
            (PARAMETER_WINDOW_START, time(range.start)),
            (PARAMETER_WINDOW_END, time(range.end)),
            (PARAMETER_FIRST_DATE, date(range.start)),
            (PARAMETER_LAST_DATE, date(range.end - 1)),
        ];
        let used = values.into_iter().filter(|(name, _)| self.parameters.contains(*name));
        Parameters::Named(used.map(|(name, value)| (name.to_owned(), value)).collect())
    }

    /// An error of the SELECT as a whole.
    pub(super) fn error(&self, message: impl AsRef<str>) -> QueryError {
        error_at(&self.file, self.select_line, 1, message.as_ref())
    }

    /// An error that planning the SELECT gave: named by file, and by line and column where it knows them.
    pub(super) fn locate(&self, error: QueryError) -> QueryError {
        let (line, column) = error.position.unwrap_or((self.select_line as u64, 1));
        QueryError { message: format!("{}:{line}:{column}: {}", self.file, error.message), ..error }
    }

    fn read_parameters(&self) -> Result<BTreeSet<String>, QueryError> {
        let dialect = GenericDialect {};
        let tokens = Tokenizer::new(&dialect, &self.select).tokenize_with_location().map_err(|error| {
            error_at(&self.file, to_usize(error.location.line), error.location.column, &error.message)
        })?;
        let mut seen = BTreeSet::new();
        for token in tokens {
            let Token::Placeholder(placeholder) = &token.token else { continue };
            let name = placeholder.trim_start_matches('$');
            if !PARAMETERS.contains(&name) {
                let message = format!("parameter {placeholder} is none of ${}", PARAMETERS.join(", $"));
                return Err(error_at(&self.file, to_usize(token.span.start.line), token.span.start.column, &message));
            }
            seen.insert(name.to_owned());
        }
        match [PARAMETER_WINDOW_START, PARAMETER_WINDOW_END].into_iter().find(|required| !seen.contains(*required)) {
            Some(missing) => Err(self.error(format!("the select never uses ${missing}"))),
            None => Ok(seen),
        }
    }

    fn check_statement(&self) -> Result<(), QueryError> {
        let statements = DFParser::parse_sql(&self.select).map_err(|error| self.locate(error.into()))?;
        let statement = match statements.iter().collect::<Vec<_>>().as_slice() {
            [statement @ Statement::Statement(inner)] if matches!(**inner, SqlStatement::Query(_)) => *statement,
            _ => return Err(self.error("a rollup is exactly one select")),
        };
        let (tables, _) =
            resolve_table_references(statement, true).map_err(|error| self.error(error.strip_backtrace()))?;
        match tables.iter().find(|reference| reference.to_string() != self.source.name) {
            Some(other) => Err(self.error(format!("the select reads {other}, its source is {}", self.source.name))),
            None if tables.is_empty() => Err(self.error(format!("the select never reads {}", self.source.name))),
            None => Ok(()),
        }
    }
}

fn parse_keys(header: &Header<'_>, target: &TableSpec) -> Result<Vec<String>, QueryError> {
    let entry = header.required("keys")?;
    let mut keys: Vec<String> = Vec::new();
    for key in entry.value.split(',').map(str::trim) {
        if key == DATE || key == WINDOW_START || key == REVISION || target.columns.iter().all(|c| c.name != key) {
            return Err(header.error(entry, format!("key {key:?} is no key column of table {}", target.name)));
        }
        if keys.iter().any(|earlier| earlier == key) {
            return Err(header.error(entry, format!("key {key} stands twice")));
        }
        keys.push(key.to_owned());
    }
    Ok(keys)
}

/// A whole number with a unit: `250ms`, `10s`, `1m`, `1h`, `1d`. None for zero and for all else.
fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.checked_mul(millis).filter(|millis| *millis > 0).map(Duration::from_millis)
}

fn table(name: &str) -> Option<&'static TableSpec> {
    TABLES.iter().copied().find(|spec| spec.name == name)
}

/// Text is text whether it comes as offsets or as views; any other difference would lose or invent something.
fn same_type(left: &DataType, right: &DataType) -> bool {
    let is_text = |data_type: &DataType| matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    left == right || (is_text(left) && is_text(right))
}

fn to_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests;
