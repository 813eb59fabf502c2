use std::fmt::Write as _;

use arrow::array::{Array, ArrayRef};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::json::writer::{EncoderOptions, NullableEncoder, make_encoder};
use arrow::record_batch::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};

use super::{Encode, TIMESTAMP};
use crate::QueryError;

fn json_options() -> EncoderOptions {
    EncoderOptions::default().with_explicit_nulls(true).with_timestamp_format(TIMESTAMP.to_owned())
}

fn encode_cell(encoder: &mut NullableEncoder<'_>, row: usize, out: &mut Vec<u8>) {
    if encoder.is_null(row) {
        out.extend_from_slice(b"null");
    } else {
        encoder.encode(row, out);
    }
}

/// Objects, in an array or a line each. Decimals are written as numbers with all their digits.
pub(super) struct Json {
    /// `"name":` of each column.
    names: Vec<Vec<u8>>,
    options: EncoderOptions,
    lines: bool,
    first: bool,
    out: Vec<u8>,
}

impl Json {
    pub(super) fn array(schema: &SchemaRef) -> Self {
        Self::new(schema, false)
    }

    pub(super) fn lines(schema: &SchemaRef) -> Self {
        Self::new(schema, true)
    }

    fn new(schema: &SchemaRef, lines: bool) -> Self {
        let names = schema.fields().iter().map(|field| {
            let mut name = serde_json::Value::from(field.name().as_str()).to_string().into_bytes();
            name.push(b':');
            name
        });
        Self { names: names.collect(), options: json_options(), lines, first: true, out: Vec::new() }
    }
}

impl Encode for Json {
    fn begin(&mut self) -> Result<(), QueryError> {
        if !self.lines {
            self.out.push(b'[');
        }
        Ok(())
    }

    fn rows(&mut self, batch: &RecordBatch) -> Result<(), QueryError> {
        let schema = batch.schema();
        let mut encoders = schema
            .fields()
            .iter()
            .zip(batch.columns())
            .map(|(field, column)| make_encoder(field, column, &self.options))
            .collect::<Result<Vec<_>, _>>()?;
        for row in 0..batch.num_rows() {
            if !self.lines && !std::mem::replace(&mut self.first, false) {
                self.out.extend_from_slice(b",\n");
            }
            self.out.push(b'{');
            for (index, (name, encoder)) in self.names.iter().zip(&mut encoders).enumerate() {
                if index > 0 {
                    self.out.push(b',');
                }
                self.out.extend_from_slice(name);
                encode_cell(encoder, row, &mut self.out);
            }
            self.out.push(b'}');
            if self.lines {
                self.out.push(b'\n');
            }
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), QueryError> {
        if !self.lines {
            self.out.extend_from_slice(b"]\n");
        }
        Ok(())
    }

    fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }
}

/// Comma-separated values as RFC 4180 has them, with bare line feeds.
pub(super) struct Csv {
    schema: SchemaRef,
    options: EncoderOptions,
    out: Vec<u8>,
}

/// One column: nested values are written as JSON, all others as text.
enum CsvColumn<'a> {
    Plain { array: &'a ArrayRef, formatter: ArrayFormatter<'a> },
    Nested(NullableEncoder<'a>),
}

impl Csv {
    pub(super) fn new(schema: &SchemaRef) -> Self {
        Self { schema: SchemaRef::clone(schema), options: json_options(), out: Vec::new() }
    }
}

impl Encode for Csv {
    fn begin(&mut self) -> Result<(), QueryError> {
        for (index, field) in self.schema.fields().iter().enumerate() {
            if index > 0 {
                self.out.push(b',');
            }
            csv_text(field.name(), &mut self.out);
        }
        self.out.push(b'\n');
        Ok(())
    }

    fn rows(&mut self, batch: &RecordBatch) -> Result<(), QueryError> {
        let schema = batch.schema();
        let format = FormatOptions::new().with_display_error(true).with_timestamp_format(Some(TIMESTAMP));
        let mut columns = Vec::with_capacity(batch.num_columns());
        for (field, array) in schema.fields().iter().zip(batch.columns()) {
            columns.push(if is_nested(field.data_type()) {
                CsvColumn::Nested(make_encoder(field, array, &self.options)?)
            } else {
                CsvColumn::Plain { array, formatter: ArrayFormatter::try_new(array, &format)? }
            });
        }
        // A line without a character would be no row to most readers.
        let lone = columns.len() == 1;
        let mut cell = String::new();
        let mut json = Vec::new();
        for row in 0..batch.num_rows() {
            for (index, column) in columns.iter_mut().enumerate() {
                if index > 0 {
                    self.out.push(b',');
                }
                match column {
                    CsvColumn::Plain { array, .. } if array.is_null(row) => {}
                    CsvColumn::Nested(encoder) if encoder.is_null(row) => {}
                    CsvColumn::Plain { formatter, .. } => {
                        cell.clear();
                        write!(cell, "{}", formatter.value(row))
                            .map_err(|_| QueryError::internal("a value cannot be written as text"))?;
                        csv_text(&cell, &mut self.out);
                        continue;
                    }
                    CsvColumn::Nested(encoder) => {
                        json.clear();
                        encoder.encode(row, &mut json);
                        csv_text(&String::from_utf8_lossy(&json), &mut self.out);
                        continue;
                    }
                }
                if lone {
                    self.out.extend_from_slice(b"\"\"");
                }
            }
            self.out.push(b'\n');
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), QueryError> {
        Ok(())
    }

    fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }
}

fn is_nested(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(_, values) => is_nested(values),
        other => other.is_nested(),
    }
}

/// Quoted where it has to be, and where it is empty: an unquoted nothing is NULL.
fn csv_text(text: &str, out: &mut Vec<u8>) {
    let bare = !text.is_empty()
        && !text.contains([',', '"', '\n', '\r'])
        && !text.starts_with(char::is_whitespace)
        && !text.ends_with(char::is_whitespace);
    if bare {
        out.extend_from_slice(text.as_bytes());
        return;
    }
    out.push(b'"');
    out.extend_from_slice(text.replace('"', "\"\"").as_bytes());
    out.push(b'"');
}
