//! The aggregates `histogram` and `histogram_merge`.

use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::plan_err;
use datafusion::error::Result;
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::function::{AccumulatorArgs, AggregateFunctionSimplification};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDFImpl, Documentation, Expr, GroupsAccumulator, ReversedUDAF, Signature,
};
use spanlake_metrics::Kind;

use super::groups::HistogramGroups;
use super::single::SingleHistogram;
use super::values::kind_of;
use super::{SECTION, field, holds_histograms, is_integer, signature, wrong_types};

/// Makes a histogram of numbers, or of histograms.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct HistogramAggregate {
    name: &'static str,
    merges: bool,
    signature: Signature,
    documentation: Documentation,
}

impl HistogramAggregate {
    pub(super) fn of_values() -> Self {
        let about = "The histogram of all values that are not NULL, each as often as its weight says, where there is one: exact in \
            count, sum, least and greatest value, and within 0.55 % for every quantile. NULL where there is no value.";
        let documentation = Documentation::builder(SECTION, about, "histogram(value [, weight])")
            .with_argument("value", "Integer, decimal or floating point number. NaN and infinities are counted apart.")
            .with_argument(
                "weight",
                "How often the value counts, an integer that is not negative. A row with NULL is skipped.",
            )
            .with_sql_example(
                "SELECT model, histogram_quantile(histogram(duration_ns), [0.5, 0.95, 0.99]) FROM spans GROUP BY model",
            )
            .build();
        let decimal = DataType::Decimal128(38, 12);
        let values = [DataType::Int64, decimal, DataType::Float64];
        let alone = values.iter().map(|value| vec![value.clone()]);
        let weighted = values.iter().map(|value| vec![value.clone(), DataType::Int64]);
        let signature = signature(alone.chain(weighted).collect());
        Self { name: "histogram", merges: false, signature, documentation }
    }

    pub(super) fn of_histograms() -> Self {
        let about = "The histogram of all values of many histograms, the same as one look at all values would give. Histograms of \
            integers, of decimals of one scale and of doubles merge with their like only. NULL where all are NULL.";
        let documentation = Documentation::builder(SECTION, about, "histogram_merge(histogram)")
            .with_argument("histogram", "A histogram; NULL is skipped.")
            .build();
        let signature = signature(vec![vec![DataType::Binary]]);
        Self { name: "histogram_merge", merges: true, signature, documentation }
    }

    /// What the values are, `None` where they are histograms.
    fn kind(&self, types: &[DataType]) -> Result<Option<Kind>> {
        match types {
            [histogram] if self.merges && holds_histograms(histogram) => Ok(None),
            [value, weight @ ..] if !self.merges && weight.len() <= 1 && weight.iter().all(is_integer) => {
                kind_of(value).map(Some).ok_or_else(|| self.wrong_types(types))
            }
            _ => Err(self.wrong_types(types)),
        }
    }

    fn wrong_types(&self, types: &[DataType]) -> datafusion::error::DataFusionError {
        let takes = if self.merges {
            "a histogram"
        } else {
            "an integer, a decimal of 0 to 38 places or a floating point number, and perhaps an integer weight"
        };
        wrong_types(self.name, takes, types)
    }

    fn kind_of_arguments(&self, arguments: &AccumulatorArgs<'_>) -> Result<Option<Kind>> {
        check_plain(self.name, arguments.is_distinct, !arguments.order_bys.is_empty())?;
        let types: Vec<DataType> = arguments.expr_fields.iter().map(|field| field.data_type().clone()).collect();
        self.kind(&types)
    }
}

/// DISTINCT would not be the histogram of the values, and order changes nothing.
fn check_plain(function: &str, distinct: bool, ordered: bool) -> Result<()> {
    match (distinct, ordered) {
        (true, _) => plan_err!("{function} takes no DISTINCT: select the distinct values in a subquery"),
        (_, true) => plan_err!("{function} takes no ORDER BY: the order of values changes nothing"),
        _ => Ok(()),
    }
}

impl AggregateUDFImpl for HistogramAggregate {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.kind(types).map(|_| DataType::Binary)
    }

    fn return_field(&self, arguments: &[FieldRef]) -> Result<FieldRef> {
        let types: Vec<DataType> = arguments.iter().map(|field| field.data_type().clone()).collect();
        self.kind(&types).map(|_| field(self.name))
    }

    fn accumulator(&self, arguments: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        Ok(Box::new(SingleHistogram::new(self.name, self.kind_of_arguments(&arguments)?)))
    }

    fn groups_accumulator_supported(&self, _: AccumulatorArgs<'_>) -> bool {
        true
    }

    fn create_groups_accumulator(&self, arguments: AccumulatorArgs<'_>) -> Result<Box<dyn GroupsAccumulator>> {
        Ok(Box::new(HistogramGroups::new(self.name, self.kind_of_arguments(&arguments)?)))
    }

    /// Refuses DISTINCT and ORDER BY before an optimizer rule makes something else of them.
    fn simplify(&self) -> Option<AggregateFunctionSimplification> {
        Some(Box::new(|function: AggregateFunction, _| {
            let parameters = &function.params;
            check_plain(function.func.name(), parameters.distinct, !parameters.order_by.is_empty())?;
            Ok(Expr::AggregateFunction(function))
        }))
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::Identical
    }

    fn documentation(&self) -> Option<&Documentation> {
        Some(&self.documentation)
    }
}
