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
use spanlake_schema::{ColumnType, DATE, TABLES, TableSpec};

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
const HEADER_KEYS: &[&str] = &["name", "description", "source", "schedule", "window", "keys"];

macro_rules! built_in {
    ($($name:literal),* $(,)?) => {
        &[$((
            concat!("sql/rollups/", $name, ".sql"),
            include_str!(concat!("../../../../sql/rollups/", $name, ".sql")),
        )),*]
    };
}

/// The rollups that come with the product: file and text, those that others read before them.
pub(super) const BUILT_IN: &[(&str, &str)] = built_in![
    "model_usage_hour",
    "model_usage",
    "model_usage_day",
    "cost_daily",
    "error_rates",
    "service_hourly",
    "slowest_calls_daily",
    "tool_usage_hourly",
];

/// A rollup as its SQL file has it: a header of `-- key: value` lines, and a SELECT.
#[derive(Clone, Debug)]
pub(super) struct Definition {
    /// The rollup's and its table's name.
    pub(super) name: String,
    /// What it tells, one sentence for people.
    description: String,
    /// The table it reads.
    pub(super) source: String,
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
    /// The line of the header that tells the keys.
    keys_line: usize,
    /// Path of the file, for messages.
    file: String,
    /// Line of the file at which the SELECT starts.
    select_line: usize,
}

impl Definition {
    /// Reads a rollup's file and checks all that can be checked without planning its SELECT.
    pub(super) fn parse(file: &str, text: &str) -> Result<Self, QueryError> {
        let header = Header::parse(file, text, HEADER_KEYS)?;
        let name = header.plain_name()?;
        let description = header.optional("description").map(|entry| entry.value.clone());
        let source = header.required("source")?.value.clone();
        if source == name.value {
            return Err(header.error(name, format!("rollup {source} reads itself")));
        }
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
        let (keys, keys_line) = parse_keys(&header)?;
        let mut definition = Self {
            name: name.value.clone(),
            description: description.unwrap_or_else(|| format!("Rollup of {source}")),
            source,
            schedule: schedule.value.clone(),
            every,
            window_micros,
            keys,
            select: text.trim_end().trim_end_matches(';').to_owned(),
            parameters: BTreeSet::new(),
            keys_line,
            file: file.to_owned(),
            select_line: header.select_line,
        };
        definition.parameters = definition.read_parameters()?;
        definition.check_statement()?;
        Ok(definition)
    }

    /// The table that the rollup fills: the product's own of that name, or one with the columns that the planned SELECT returns.
    pub(super) fn target(&self, output: &Schema) -> Result<&'static TableSpec, QueryError> {
        let spec = match TABLES.iter().copied().find(|spec| spec.name == self.name) {
            Some(spec) => {
                self.check_output(spec, output)?;
                spec
            }
            None => self.table_of(output)?,
        };
        let known = |key: &String| spec.columns.iter().any(|column| column.name == *key);
        match self.keys.iter().find(|key| !known(key)) {
            Some(key) => {
                let message = format!("key {key:?} is no key column of table {}", self.name);
                Err(error_at(&self.file, self.keys_line, 1, &message))
            }
            None => Ok(spec),
        }
    }

    /// A table with the columns of a SELECT, and `date` and `revision`.
    fn table_of(&self, output: &Schema) -> Result<&'static TableSpec, QueryError> {
        let own = |name: &str, column_type, comment: &str| (name.to_owned(), column_type, false, comment.to_owned());
        let mut columns = vec![own(DATE, ColumnType::Date, "UTC day of the window; the partition")];
        for field in output.fields() {
            let (name, data_type) = (field.name(), field.data_type());
            // Starts of windows are whole milliseconds, whatever function made them.
            let column_type = match data_type {
                DataType::Timestamp(_, Some(_)) if name == WINDOW_START => Some(ColumnType::Timestamp),
                other => ColumnType::holding(other),
            };
            let Some(column_type) = column_type else {
                return Err(self.error(format!("no column can hold {name}, which the select returns as {data_type}")));
            };
            if columns.iter().any(|(earlier, ..)| earlier == name) || name == REVISION {
                return Err(self.error(format!("the select returns column {name} more than once, or the run adds it")));
            }
            let (nullable, comment) = match name.as_str() {
                WINDOW_START if column_type != ColumnType::Timestamp => {
                    return Err(self.error(format!("window_start is {data_type} and no timestamp with a time zone")));
                }
                WINDOW_START => (false, "Start of the window, UTC; the window is half-open"),
                _ => (true, ""),
            };
            columns.push((name.clone(), column_type, nullable, comment.to_owned()));
        }
        if columns.iter().all(|(name, ..)| name != WINDOW_START) {
            return Err(self.error(format!("the select returns no column {WINDOW_START}")));
        }
        columns.push(own(REVISION, ColumnType::Int64, "How often the rows of this window were written"));
        Ok(TableSpec::of_columns(&self.name, &self.description, columns))
    }

    /// Tells whether a table was filled by this very SELECT: a hash of all that its rows depend on but the source.
    pub(super) fn fingerprint(&self) -> i64 {
        let code = self.select.lines().map(str::trim).filter(|line| !line.starts_with("--") && !line.is_empty());
        let window = self.window_micros.to_string();
        let bytes = code.chain([self.source.as_str(), window.as_str()]).flat_map(|part| part.bytes().chain([0]));
        // FNV-1a: nobody chooses SELECTs to collide.
        let hash = bytes
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
        (hash >> 1) as i64
    }

    /// Checks the columns that the planned SELECT returns against a table: every column but `date` and `revision`, which
    /// the run adds, none else, each of its type.
    fn check_output(&self, spec: &TableSpec, output: &Schema) -> Result<(), QueryError> {
        let expected: Vec<_> =
            spec.columns.iter().filter(|column| column.name != DATE && column.name != REVISION).collect();
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
        match tables.iter().find(|reference| reference.to_string() != self.source) {
            Some(other) => Err(self.error(format!("the select reads {other}, its source is {}", self.source))),
            None if tables.is_empty() => Err(self.error(format!("the select never reads {}", self.source))),
            None => Ok(()),
        }
    }
}

fn parse_keys(header: &Header<'_>) -> Result<(Vec<String>, usize), QueryError> {
    let entry = header.required("keys")?;
    let mut keys: Vec<String> = Vec::new();
    for key in entry.value.split(',').map(str::trim) {
        if [DATE, WINDOW_START, REVISION].contains(&key) {
            return Err(header.error(entry, format!("key {key:?} is no key column")));
        }
        if keys.iter().any(|earlier| earlier == key) {
            return Err(header.error(entry, format!("key {key} stands twice")));
        }
        keys.push(key.to_owned());
    }
    Ok((keys, entry.line))
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
