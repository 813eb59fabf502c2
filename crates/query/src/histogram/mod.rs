//! Histograms in SQL.
//!
//! `histogram(x)` makes one of numbers, `histogram_merge(h)` adds them up, `histogram_from_explicit` and
//! `histogram_from_exponential` read what producers measured, and the other functions ask: quantiles, shares, totals,
//! buckets. In a column a histogram is the encoding of [`spanlake_metrics`], as `BINARY`; equal values give equal bytes,
//! whatever batches, partitions and spill files they went through, since a partial aggregate is nothing but that encoding.
//!
//! Types are static in SQL, and one column may hold histograms of integers, decimals and doubles: answers are `DOUBLE`, and
//! for integers and decimals, of which nothing may be lost, there are the functions that end in `_exact`.

mod aggregate;
mod answers;
mod column;
mod groups;
mod points;
mod questions;
mod single;
mod values;

#[cfg(test)]
mod tests;

use std::fmt::Display;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::plan_datafusion_err;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{AggregateUDF, DocSection, ScalarUDF, Signature, TypeSignature, Volatility};

use crate::QueryError;
use aggregate::HistogramAggregate;
use points::FromPoint;
use questions::Question;

/// What the metadata of a field with histograms says, so that they are recognised where they arrive.
const EXTENSION: (&str, &str) = ("ARROW:extension:name", "spanlake.histogram");

/// Where the functions stand in documentation.
const SECTION: DocSection = DocSection { include: true, label: "Histogram Functions", description: None };

/// `histogram` and `histogram_merge`.
pub(crate) fn aggregate_functions() -> Vec<Arc<AggregateUDF>> {
    let functions = [HistogramAggregate::of_values(), HistogramAggregate::of_histograms()];
    functions.into_iter().map(|function| Arc::new(AggregateUDF::new_from_impl(function))).collect()
}

/// All others.
pub(crate) fn scalar_functions() -> Vec<Arc<ScalarUDF>> {
    let questions = questions::all().into_iter().map(ScalarUDF::new_from_impl::<Question>);
    let points = points::all().into_iter().map(ScalarUDF::new_from_impl::<FromPoint>);
    questions.chain(points).map(Arc::new).collect()
}

/// A field of histograms.
fn field(name: &str) -> FieldRef {
    let (key, value) = EXTENSION;
    let metadata = [(key.to_owned(), value.to_owned())].into();
    Arc::new(Field::new(name, DataType::Binary, true).with_metadata(metadata))
}

/// Arguments as they stand: the function looks at their types itself, and has words of its own for wrong ones. The examples
/// are for `SHOW FUNCTIONS`.
fn signature(examples: Vec<Vec<DataType>>) -> Signature {
    let examples = examples.into_iter().map(TypeSignature::Exact);
    Signature::one_of(examples.chain([TypeSignature::VariadicAny]).collect(), Volatility::Immutable)
}

/// Something is wrong with what a function was given.
#[cold]
fn refused(function: &str, error: impl Display) -> DataFusionError {
    QueryError::invalid(format!("{function}: {error}")).into()
}

/// A function was given arguments of other types than it takes.
#[cold]
fn wrong_types(function: &str, takes: &str, given: &[DataType]) -> DataFusionError {
    let given = given.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    plan_datafusion_err!("{function} takes {takes}, not ({given})")
}

/// Whether a column of this type can hold histograms; untyped NULL does.
fn holds_histograms(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(_, values) => holds_histograms(values),
        DataType::FixedSizeBinary(_) | DataType::Null => true,
        other => other.is_binary(),
    }
}

fn is_number(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(_, values) => is_number(values),
        other => other.is_numeric() || other.is_null(),
    }
}

fn is_integer(data_type: &DataType) -> bool {
    match data_type {
        DataType::Dictionary(_, values) => is_integer(values),
        other => other.is_integer() || other.is_null(),
    }
}

fn is_list_of_numbers(data_type: &DataType) -> bool {
    match data_type {
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _) => is_number(item.data_type()),
        _ => false,
    }
}
