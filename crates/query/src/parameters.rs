use std::collections::{BTreeMap, BTreeSet, HashMap};

use arrow::datatypes::DataType;
use datafusion::common::ParamValues;
use datafusion::logical_expr::LogicalPlan;
use datafusion::scalar::ScalarValue;
use serde_json::Value;

use crate::QueryError;

/// Bound parameters: `$1`, `$2`, … or `$name`.
#[derive(Clone, Debug, PartialEq)]
pub enum Parameters {
    /// None.
    None,
    /// By place.
    Positional(Vec<ScalarValue>),
    /// By name, without the dollar sign.
    Named(BTreeMap<String, ScalarValue>),
}

impl Parameters {
    /// Reads parameters from JSON: an array binds `$1`, `$2`, …, an object binds `$name`, `null` binds nothing.
    /// Text, integers, floating-point numbers, booleans, `null` and arrays of one of them are values.
    ///
    /// ```
    /// use spanlake_query::Parameters;
    ///
    /// let parameters = Parameters::from_json(&serde_json::json!(["gpt-4o", 100])).unwrap();
    /// assert!(matches!(parameters, Parameters::Positional(values) if values.len() == 2));
    /// ```
    ///
    /// # Errors
    /// [`crate::QueryErrorKind::Invalid`] for anything else, naming the parameter.
    pub fn from_json(value: &Value) -> Result<Self, QueryError> {
        match value {
            Value::Null => Ok(Self::None),
            Value::Array(items) => {
                let values = items.iter().enumerate().map(|(index, item)| scalar(item, &format!("${}", index + 1)));
                Ok(Self::Positional(values.collect::<Result<_, _>>()?))
            }
            Value::Object(items) => {
                let values = items.iter().map(|(name, item)| {
                    let name = name.strip_prefix('$').unwrap_or(name);
                    Ok((name.to_owned(), scalar(item, &format!("${name}"))?))
                });
                Ok(Self::Named(values.collect::<Result<_, QueryError>>()?))
            }
            _ => Err(QueryError::invalid("parameters must be an array ($1, $2, …) or an object ($name)")),
        }
    }

    /// Puts the values into a plan. Every placeholder must have a value, and every value a placeholder.
    pub(crate) fn bind(self, plan: LogicalPlan) -> Result<LogicalPlan, QueryError> {
        let wanted: BTreeSet<String> = plan.get_parameter_names()?.into_iter().collect();
        let given: BTreeSet<String> = match &self {
            Self::None => BTreeSet::new(),
            Self::Positional(values) => (1..=values.len()).map(|place| format!("${place}")).collect(),
            Self::Named(values) => values.keys().map(|name| format!("${name}")).collect(),
        };
        if let Some(missing) = wanted.difference(&given).next() {
            return Err(QueryError::invalid(format!("parameter {missing} has no value")));
        }
        if let Some(superfluous) = given.difference(&wanted).next() {
            return Err(QueryError::invalid(format!(
                "a value is given for parameter {superfluous}, which the statement does not have"
            )));
        }
        let values: ParamValues = match self {
            Self::None => return Ok(plan),
            Self::Positional(values) => values.into(),
            Self::Named(values) => values.into_iter().collect::<HashMap<_, _>>().into(),
        };
        Ok(plan.with_param_values(values)?)
    }
}

fn scalar(value: &Value, name: &str) -> Result<ScalarValue, QueryError> {
    match value {
        Value::Null => Ok(ScalarValue::Null),
        Value::Bool(value) => Ok(ScalarValue::Boolean(Some(*value))),
        Value::String(value) => Ok(ScalarValue::Utf8(Some(value.clone()))),
        Value::Number(number) => {
            if let Some(value) = number.as_i64() {
                return Ok(ScalarValue::Int64(Some(value)));
            }
            if number.is_u64() {
                return Err(QueryError::invalid(format!("parameter {name}: {number} does not fit 64 bits, signed")));
            }
            let value = number.as_f64().filter(|value| value.is_finite());
            let value = value.ok_or_else(|| QueryError::invalid(format!("parameter {name}: {number} is no number")))?;
            Ok(ScalarValue::Float64(Some(value)))
        }
        Value::Array(items) => list(items, name),
        Value::Object(_) => Err(QueryError::invalid(format!("parameter {name} is an object; bind its fields instead"))),
    }
}

fn list(items: &[Value], name: &str) -> Result<ScalarValue, QueryError> {
    let values = items.iter().map(|item| scalar(item, name)).collect::<Result<Vec<_>, _>>()?;
    let mut item_type = DataType::Null;
    for value in &values {
        item_type = match (&item_type, value.data_type()) {
            (_, DataType::List(_)) => {
                return Err(QueryError::invalid(format!("parameter {name} is a list within a list")));
            }
            (known, DataType::Null) => known.clone(),
            (DataType::Null, other) => other,
            (known, other) if *known == other => other,
            (DataType::Int64 | DataType::Float64, DataType::Int64 | DataType::Float64) => DataType::Float64,
            (known, other) => {
                return Err(QueryError::invalid(format!("parameter {name} mixes {known} and {other} in one list")));
            }
        };
    }
    let values = values.into_iter().map(|value| Ok(value.cast_to(&item_type)?));
    let values = values.collect::<Result<Vec<_>, QueryError>>()?;
    Ok(ScalarValue::List(ScalarValue::new_list_nullable(&values, &item_type)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Parameters, ScalarValue};
    use crate::QueryErrorKind;

    fn only(value: serde_json::Value) -> ScalarValue {
        match Parameters::from_json(&json!([value])).expect("a parameter") {
            Parameters::Positional(mut values) => values.remove(0),
            other => panic!("{other:?} is not by place"),
        }
    }

    #[test]
    fn json_values_become_values_of_sql() {
        assert_eq!(only(json!("a")), ScalarValue::Utf8(Some("a".into())));
        assert_eq!(only(json!(-7)), ScalarValue::Int64(Some(-7)));
        assert_eq!(only(json!(i64::MAX)), ScalarValue::Int64(Some(i64::MAX)));
        assert_eq!(only(json!(0.5)), ScalarValue::Float64(Some(0.5)));
        assert_eq!(only(json!(true)), ScalarValue::Boolean(Some(true)));
        assert_eq!(only(json!(null)), ScalarValue::Null);
        assert_eq!(only(json!(["a", null])).data_type().to_string(), "List(Utf8)");
        assert_eq!(only(json!([1, 2.5])).data_type().to_string(), "List(Float64)");
        assert_eq!(only(json!([])).data_type().to_string(), "List(Null)");
    }

    #[test]
    fn names_are_taken_with_and_without_their_sign() {
        let parameters = Parameters::from_json(&json!({"model": "a", "$tier": 1})).expect("parameters");
        let Parameters::Named(values) = parameters else { panic!("not by name") };
        assert_eq!(values.keys().collect::<Vec<_>>(), ["model", "tier"]);
        assert_eq!(Parameters::from_json(&json!(null)).expect("none"), Parameters::None);
    }

    #[test]
    fn what_is_no_value_is_invalid_and_named() {
        let cases = [
            (json!("text"), "array"),
            (json!([u64::MAX]), "$1"),
            (json!([1, {"a": 1}]), "$2"),
            (json!([[1, "a"]]), "mixes"),
            (json!({"deep": [[1]]}), "$deep"),
        ];
        for (value, word) in cases {
            let error = Parameters::from_json(&value).expect_err("no parameters");
            assert_eq!(error.kind, QueryErrorKind::Invalid);
            assert!(error.message.contains(word), "{value}: {error}");
        }
    }
}
