//! The functions that ask something of a histogram: their names, types and documentation.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use datafusion::common::ScalarValue;
use datafusion::error::Result;
use datafusion::logical_expr::{ColumnarValue, Documentation, ScalarFunctionArgs, ScalarUDFImpl, Signature};

use super::answers;
use super::{SECTION, holds_histograms, is_list_of_numbers, is_number, signature, wrong_types};

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum What {
    Count,
    NonFiniteCount,
    Sum,
    Min,
    Max,
    Mean,
    SumExact,
    MinExact,
    MaxExact,
    Quantile,
    FractionBelow,
    Rank,
    RelativeError,
    Buckets,
}

/// One of the functions.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Question {
    what: What,
    signature: Signature,
    documentation: Documentation,
}

pub(super) fn all() -> Vec<Question> {
    use What::{
        Buckets, Count, FractionBelow, Max, MaxExact, Mean, Min, MinExact, NonFiniteCount, Quantile, Rank,
        RelativeError, Sum, SumExact,
    };
    let all = [
        Count,
        NonFiniteCount,
        Sum,
        Min,
        Max,
        Mean,
        SumExact,
        MinExact,
        MaxExact,
        Quantile,
        FractionBelow,
        Rank,
        RelativeError,
        Buckets,
    ];
    all.into_iter().map(Question::new).collect()
}

/// Exact numbers: whole ones up to 26 digits, US dollars in full.
pub(super) const EXACT: (u8, i8) = (38, 12);

/// What `histogram_buckets` gives.
pub(super) fn bucket_fields() -> arrow::datatypes::Fields {
    let field = |name: &str, data_type: DataType| Field::new(name, data_type, true);
    [field("lower", DataType::Float64), field("upper", DataType::Float64), field("count", DataType::Int64)]
        .into_iter()
        .collect()
}

pub(super) fn list_of(item: DataType) -> DataType {
    DataType::List(Arc::new(Field::new_list_field(item, true)))
}

impl What {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Count => "histogram_count",
            Self::NonFiniteCount => "histogram_non_finite_count",
            Self::Sum => "histogram_sum",
            Self::Min => "histogram_min",
            Self::Max => "histogram_max",
            Self::Mean => "histogram_mean",
            Self::SumExact => "histogram_sum_exact",
            Self::MinExact => "histogram_min_exact",
            Self::MaxExact => "histogram_max_exact",
            Self::Quantile => "histogram_quantile",
            Self::FractionBelow => "histogram_fraction_below",
            Self::Rank => "histogram_rank",
            Self::RelativeError => "histogram_relative_error",
            Self::Buckets => "histogram_buckets",
        }
    }

    fn about(self) -> &'static str {
        match self {
            Self::Count => "How many finite values there are, weights counted. More than BIGINT holds is an error.",
            Self::NonFiniteCount => "How many values were NaN or infinite. They are in no other number.",
            Self::Sum => {
                "The sum as the nearest double; 0 where there are no values, NULL where a producer did not tell it."
            }
            Self::Min => {
                "The least value as the nearest double. NULL without values, and where a producer did not tell it."
            }
            Self::Max => {
                "The greatest value as the nearest double. NULL without values, and where a producer did not tell it."
            }
            Self::Mean => "The sum divided by the count. NULL where the sum is, and without values.",
            Self::SumExact => {
                "The sum of integers or decimals with every digit. An error for doubles, and where DECIMAL(38,12) does not hold it."
            }
            Self::MinExact => {
                "The least of integers or decimals with every digit; NULL without values. An error for doubles, and where \
                 DECIMAL(38,12) does not hold it."
            }
            Self::MaxExact => {
                "The greatest of integers or decimals with every digit; NULL without values. An error for doubles, and where \
                 DECIMAL(38,12) does not hold it."
            }
            Self::Quantile => {
                "The value at the rank of the quantile, which is ceil(q * count): at most histogram_relative_error off, the least \
                 and the greatest exact. For a list of quantiles a list of values. NULL without values."
            }
            Self::FractionBelow => {
                "Which part of the values is not above x: exact at the bounds of buckets and beyond the values, estimated within a \
                 bucket. NULL without values."
            }
            Self::Rank => "How many values are not above x, estimated as for histogram_fraction_below.",
            Self::RelativeError => {
                "How wrong a quantile can be, relative to the value at its rank: 0.0055 unless a producer's buckets are wider; \
                 infinite where a bucket that holds values is open."
            }
            Self::Buckets => {
                "The buckets that hold values, ascending, as a list of lower bound, upper bound and count."
            }
        }
    }

    fn argument(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Quantile => Some(("q", "From 0 to 1, or a list of such.")),
            Self::FractionBelow | Self::Rank => Some(("x", "Any number but NaN.")),
            _ => None,
        }
    }

    fn example(self) -> &'static str {
        match self {
            Self::Quantile => {
                "SELECT model, histogram_quantile(histogram(duration_ns), 0.95) / 1e9 FROM spans GROUP BY model"
            }
            Self::FractionBelow => {
                "SELECT model, histogram_fraction_below(histogram(duration_ns), 2e9) FROM spans GROUP BY model"
            }
            Self::Buckets => "SELECT unnest(histogram_buckets(histogram(total_tokens))) FROM spans",
            Self::SumExact => "SELECT model, histogram_sum_exact(histogram(cost_usd)) FROM spans GROUP BY model",
            _ => "",
        }
    }

    /// The type of the answer, `None` where it cannot be given for such arguments.
    fn answers_with(self, arguments: &[DataType]) -> Option<DataType> {
        let (histogram, arguments) = arguments.split_first()?;
        if !holds_histograms(histogram) {
            return None;
        }
        match (self, arguments) {
            (Self::Quantile, [q]) if is_list_of_numbers(q) => Some(list_of(DataType::Float64)),
            (Self::Quantile | Self::FractionBelow | Self::Rank, [number]) if is_number(number) => {
                Some(DataType::Float64)
            }
            (Self::Quantile | Self::FractionBelow | Self::Rank, _) => None,
            (Self::Count | Self::NonFiniteCount, []) => Some(DataType::Int64),
            (Self::SumExact | Self::MinExact | Self::MaxExact, []) => Some(DataType::Decimal128(EXACT.0, EXACT.1)),
            (Self::Buckets, []) => Some(list_of(DataType::Struct(bucket_fields()))),
            (_, []) => Some(DataType::Float64),
            _ => None,
        }
    }

    fn takes(self) -> &'static str {
        match self {
            Self::Quantile => "a histogram and a number from 0 to 1, or a list of such",
            Self::FractionBelow | Self::Rank => "a histogram and a number",
            _ => "a histogram",
        }
    }
}

impl Question {
    fn new(what: What) -> Self {
        let syntax = match what.argument() {
            Some((argument, _)) => format!("{}(histogram, {argument})", what.name()),
            None => format!("{}(histogram)", what.name()),
        };
        let mut documentation = Documentation::builder(SECTION, what.about(), syntax)
            .with_argument("histogram", "A histogram; for NULL the answer is NULL.");
        if let Some((argument, about)) = what.argument() {
            documentation = documentation.with_argument(argument, about);
        }
        if !what.example().is_empty() {
            documentation = documentation.with_sql_example(what.example());
        }
        let numbers = match what {
            What::Quantile => vec![vec![DataType::Float64], vec![list_of(DataType::Float64)]],
            What::FractionBelow | What::Rank => vec![vec![DataType::Float64]],
            _ => vec![vec![]],
        };
        let examples = numbers.into_iter().map(|numbers| [vec![DataType::Binary], numbers].concat());
        Self { what, signature: signature(examples.collect()), documentation: documentation.build() }
    }
}

impl ScalarUDFImpl for Question {
    fn name(&self) -> &str {
        self.what.name()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.what.answers_with(types).ok_or_else(|| wrong_types(self.what.name(), self.what.takes(), types))
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        once_for_constants(&arguments, |columns| answers::answer(self.what, columns))
    }

    fn documentation(&self) -> Option<&Documentation> {
        Some(&self.documentation)
    }
}

/// Calls a function of columns, with a single row where every argument is a constant.
pub(super) fn once_for_constants(
    arguments: &ScalarFunctionArgs,
    function: impl FnOnce(&[arrow::array::ArrayRef]) -> Result<arrow::array::ArrayRef>,
) -> Result<ColumnarValue> {
    let constant = arguments.args.iter().all(|argument| matches!(argument, ColumnarValue::Scalar(_)));
    let rows = if constant { 1 } else { arguments.number_rows };
    let columns = arguments.args.iter().map(|argument| argument.to_array(rows)).collect::<Result<Vec<_>>>()?;
    let answer = function(&columns)?;
    if constant {
        return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&answer, 0)?));
    }
    Ok(ColumnarValue::Array(answer))
}
