//! Functions that make much out of little, held to a bound.
//!
//! The memory limit counts what operators hold, not what a function makes within one call: `range(0, 1000000000000)`
//! would end the process. The functions whose result is as large as a number among their arguments are asked first.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, FieldRef, Int64Type, IntervalMonthDayNanoType, IntervalUnit, TimeUnit};
use datafusion::common::Result;
use datafusion::execution::SessionStateDefaults;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    AggregateUDF, ColumnarValue, Documentation, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature,
};

use crate::attributes::attribute_entries;
use crate::{QueryError, histogram};

/// Most bytes that one call, for one batch of rows, may make.
pub(crate) const RESULT_LIMIT_BYTES: i128 = 64 * 1024 * 1024;

/// All aggregates.
pub(crate) fn aggregate_functions() -> Vec<Arc<AggregateUDF>> {
    let mut functions = SessionStateDefaults::default_aggregate_functions();
    functions.extend(histogram::aggregate_functions());
    functions
}

/// All scalar functions, the growing ones bounded, and the product's own.
pub(crate) fn scalar_functions() -> Vec<Arc<ScalarUDF>> {
    let mut functions = SessionStateDefaults::default_scalar_functions();
    functions.extend(histogram::scalar_functions());
    functions
        .into_iter()
        .map(|function| match Growth::of(function.name()) {
            Some(growth) => Arc::new(ScalarUDF::new_from_impl(Bounded { function, growth })),
            None => function,
        })
        .chain([Arc::new(attribute_entries())])
        .collect()
}

/// How large a result is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Growth {
    /// The first argument as often as the second says.
    Repeat,
    /// As many items as the second argument says, each as large as the third.
    Resize,
    /// As many characters as the second argument says.
    Pad,
    /// From the first argument to the second in steps of the third.
    Range,
}

impl Growth {
    fn of(function: &str) -> Option<Self> {
        match function {
            "repeat" | "array_repeat" => Some(Self::Repeat),
            "array_resize" => Some(Self::Resize),
            "lpad" | "rpad" => Some(Self::Pad),
            "range" | "generate_series" => Some(Self::Range),
            _ => None,
        }
    }

    /// Bytes of the result, about.
    fn bytes(self, arguments: &[ColumnarValue], rows: usize) -> Result<i128> {
        // Where every argument is a constant, so is the result: it is made once.
        let rows = if arguments.iter().any(|value| matches!(value, ColumnarValue::Array(_))) { rows } else { 1 };
        let numbers = |place: usize| arguments.get(place).map(|value| numbers(value, rows)).transpose();
        let each = match self {
            Self::Repeat => arguments.first().map_or(0, |value| width(value, rows)),
            Self::Resize => arguments.get(2).map_or(8, |value| width(value, rows)),
            Self::Pad => 1,
            Self::Range => return range_bytes(arguments, rows),
        };
        let Some(counts) = numbers(1)? else { return Ok(0) };
        let counts = counts.as_primitive::<Int64Type>();
        Ok(counts.iter().flatten().map(|count| i128::from(count.max(0))).sum::<i128>() * each)
    }
}

/// Bytes of one value, on average.
fn width(value: &ColumnarValue, rows: usize) -> i128 {
    let bytes = match value {
        ColumnarValue::Scalar(scalar) => scalar.size(),
        ColumnarValue::Array(array) => array.to_data().get_slice_memory_size().unwrap_or_default() / rows.max(1),
    };
    i128::try_from(bytes.max(1)).unwrap_or(i128::MAX)
}

/// A column of whole numbers: dates and times as nanoseconds, intervals as their length. NULL where it is none of these.
fn numbers(value: &ColumnarValue, rows: usize) -> Result<ArrayRef> {
    let array = value.to_array(rows)?;
    let array = match array.data_type() {
        DataType::Date32 | DataType::Date64 | DataType::Timestamp(..) => {
            cast(&array, &DataType::Timestamp(TimeUnit::Nanosecond, None))?
        }
        DataType::Interval(_) => {
            let intervals = cast(&array, &DataType::Interval(IntervalUnit::MonthDayNano))?;
            let lengths = intervals.as_primitive::<IntervalMonthDayNanoType>().iter().map(|interval| {
                let interval = interval?;
                let days = i64::from(interval.months) * 30 + i64::from(interval.days);
                days.checked_mul(86_400_000_000_000)?.checked_add(interval.nanoseconds)
            });
            return Ok(Arc::new(lengths.collect::<arrow::array::Int64Array>()));
        }
        _ => array,
    };
    Ok(cast(&array, &DataType::Int64)?)
}

fn range_bytes(arguments: &[ColumnarValue], rows: usize) -> Result<i128> {
    let columns = arguments.iter().map(|value| numbers(value, rows)).collect::<Result<Vec<_>>>()?;
    let at = |place: usize, row: usize| {
        let column = columns.get(place)?.as_primitive::<Int64Type>();
        column.is_valid(row).then(|| i128::from(column.value(row)))
    };
    let mut bytes = 0;
    for row in 0..rows {
        let (first, last, step) = match columns.len() {
            1 => (Some(0), at(0, row), Some(1)),
            2 => (at(0, row), at(1, row), Some(1)),
            _ => (at(0, row), at(1, row), at(2, row)),
        };
        let (Some(first), Some(last), Some(step)) = (first, last, step) else { continue };
        let distance = if step < 0 { first - last } else { last - first };
        // A step of nothing is refused by the function itself.
        bytes += 8 * (distance.max(0) / step.abs().max(1) + 1);
    }
    Ok(bytes)
}

/// A function that is not called where its result would be too large.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Bounded {
    function: Arc<ScalarUDF>,
    growth: Growth,
}

impl ScalarUDFImpl for Bounded {
    fn name(&self) -> &str {
        self.function.name()
    }

    fn aliases(&self) -> &[String] {
        self.function.aliases()
    }

    fn signature(&self) -> &Signature {
        self.function.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.function.return_type(types)
    }

    fn return_field_from_args(&self, arguments: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        self.function.return_field_from_args(arguments)
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.function.coerce_types(types)
    }

    fn simplify(&self, arguments: Vec<Expr>, context: &SimplifyContext) -> Result<ExprSimplifyResult> {
        self.function.simplify(arguments, context)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.function.documentation()
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let bytes = self.growth.bytes(&arguments.args, arguments.number_rows)?;
        if bytes > RESULT_LIMIT_BYTES {
            let name = self.name();
            let message = format!("{name} would make {bytes} bytes at once, more than {RESULT_LIMIT_BYTES}");
            return Err(QueryError::exhausted(message).into());
        }
        self.function.invoke_with_args(arguments)
    }
}
