use arrow::datatypes::Field;
use spanlake_schema::model_usage::HOUR_SPEC;

use super::*;
use crate::QueryErrorKind;

const FILE: &str = "sql/rollups/model_usage_hour.sql";

fn built_in() -> Definition {
    let (file, text) = BUILT_IN[0];
    Definition::parse(file, text).expect("the built-in rollup is right")
}

/// The built-in file with one piece of text replaced.
fn altered(from: &str, to: &str) -> String {
    let (_, text) = BUILT_IN[0];
    assert!(text.contains(from), "{from:?} is not in the file");
    text.replacen(from, to, 1)
}

fn refusal(text: &str) -> String {
    let read =
        Definition::parse(FILE, text).and_then(|definition| definition.target(&returned(&|field| vec![field.clone()])));
    let error = read.expect_err("the file is wrong");
    assert_eq!(error.kind, QueryErrorKind::Invalid);
    error.message
}

/// The columns of the table, as a SELECT returns them, each altered.
fn returned(alter: &dyn Fn(&Field) -> Vec<Field>) -> Schema {
    let schema = HOUR_SPEC.arrow_schema();
    let kept = schema.fields().iter().filter(|field| field.name() != DATE && field.name() != REVISION);
    Schema::new(kept.flat_map(|field| alter(field.as_ref())).collect::<Vec<_>>())
}

#[test]
fn the_built_in_rollup_is_read() {
    let definition = built_in();
    assert_eq!(definition.name, "model_usage_hour");
    assert_eq!(definition.source, "spans");
    let target = definition.target(&returned(&|field| vec![field.clone()])).expect("the very columns of the table");
    assert_eq!(target.comment, HOUR_SPEC.comment);
    assert_eq!(definition.schedule, "every 1m");
    assert_eq!(definition.every, Duration::from_secs(60));
    assert_eq!(definition.window_micros, 3_600_000_000);
    assert_eq!(definition.keys, ["service_name", "provider", "model", "operation", "environment", "status"]);
}

#[test]
fn every_header_mistake_names_file_and_line() {
    let cases = [
        (
            "-- name: model_usage_hour",
            "-- name: other",
            "1:1: name other differs from the file's name model_usage_hour",
        ),
        ("-- source: spans\n", "", "1:1: the header has no key source"),
        ("-- source: spans", "-- source: model_usage_hour", "1:1: rollup model_usage_hour reads itself"),
        (
            "-- source: spans",
            "-- sauce: spans",
            "2:1: header key \"sauce\" is none of name, description, source, schedule, window, keys",
        ),
        ("-- source: spans", "-- source: spans\n-- source: spans", "3:1: header key source stands on line 2 too"),
        ("-- source: spans", "-- source:", "2:1: header key source has no value"),
        ("-- source: spans", "-- source spans", "2:1: a header line is `-- key: value`; prose follows a line `--`"),
        ("every 1m", "every 0m", "3:1: schedule \"every 0m\" is not like `every 1m`"),
        ("every 1m", "1m", "3:1: schedule \"1m\" is not like `every 1m`"),
        ("every 1m", "every 60", "3:1: schedule \"every 60\" is not like `every 1m`"),
        ("window: 1h", "window: 0h", "4:1: window \"0h\" is no duration, such as 1h, that divides a day"),
        ("window: 1h", "window: 7h", "4:1: window \"7h\" is no duration, such as 1h, that divides a day"),
        ("window: 1h", "window: 2d", "4:1: window \"2d\" is no duration, such as 1h, that divides a day"),
        ("provider, model,", "provider, modal,", "5:1: key \"modal\" is no key column of table model_usage_hour"),
        ("provider, model,", "provider, provider,", "5:1: key provider stands twice"),
        ("provider, model,", "provider, revision,", "5:1: key \"revision\" is no key column"),
    ];
    for (from, to, expected) in cases {
        assert_eq!(refusal(&altered(from, to)), format!("{FILE}:{expected}"));
    }
    assert_eq!(refusal("-- name: model_usage_hour\n--\n"), format!("{FILE}:2:1: the file ends before its select"));
    assert_eq!(refusal(""), format!("{FILE}:1:1: the file ends before its select"));
}

#[test]
fn a_mistake_in_the_select_names_line_and_column() {
    let line_of = |needle: &str| {
        let (_, text) = BUILT_IN[0];
        text.lines().position(|line| line.contains(needle)).expect("the line is there") + 1
    };
    let message = refusal(&altered("count(*) AS requests,", "count(* AS requests,"));
    assert!(message.starts_with(&format!("{FILE}:{}:", line_of("AS requests"))), "{message}");

    let message = refusal(&altered("start_time < $window_end)", "start_time < $window_stop)"));
    let expected = format!("{FILE}:{}:", line_of("start_time < $window_end"));
    assert!(message.starts_with(&expected), "{message}");
    assert!(message.contains("parameter $window_stop is none of"), "{message}");
}

#[test]
fn what_is_no_select_over_the_source_is_refused() {
    let at_select = |rest: &str| format!("{FILE}:7:1: {rest}");
    let with = |select: &str| {
        let header =
            "-- name: model_usage_hour\n-- source: spans\n-- schedule: every 1m\n-- window: 1h\n-- keys: model\n--\n";
        refusal(&format!("{header}{select}"))
    };
    let bounds = "WHERE start_time >= $window_start AND start_time < $window_end";
    assert_eq!(
        with("SELECT 1 FROM spans WHERE start_time < $window_end"),
        at_select("the select never uses $window_start")
    );
    assert_eq!(with(&format!("SELECT 1 FROM logs {bounds}")), at_select("the select reads logs, its source is spans"));
    assert_eq!(
        with(&format!("SELECT 1 FROM spans, other.spans {bounds}")),
        at_select("the select reads other.spans, its source is spans")
    );
    assert_eq!(with("SELECT $window_start, $window_end"), at_select("the select never reads spans"));
    assert_eq!(
        with(&format!("SELECT 1 FROM spans {bounds}; SELECT 2 FROM spans")),
        at_select("a rollup is exactly one select")
    );
    assert_eq!(with(&format!("DELETE FROM spans {bounds}")), at_select("a rollup is exactly one select"));
}

#[test]
fn the_columns_returned_must_be_those_of_the_table() {
    let definition = built_in();
    let fields = returned;
    let refusal = |schema: &Schema| definition.target(schema).expect_err("the columns are wrong").message;

    definition.target(&fields(&|field| vec![field.clone()])).expect("the very columns of the table");
    definition
        .target(&fields(&|field| match field.data_type() {
            DataType::Utf8 => vec![field.clone().with_data_type(DataType::Utf8View)],
            _ => vec![field.clone()],
        }))
        .expect("views are text too");

    let missing = fields(&|field| if field.name() == "errors" { vec![] } else { vec![field.clone()] });
    assert!(refusal(&missing).ends_with("the select returns no column errors for table model_usage_hour"));

    let doubled = fields(&|field| if field.name() == "errors" { vec![field.clone(); 2] } else { vec![field.clone()] });
    assert!(refusal(&doubled).ends_with("the select returns column errors more than once"));

    let further = fields(&|field| match field.name().as_str() {
        "errors" => vec![field.clone(), Field::new("extra", DataType::Int64, true)],
        _ => vec![field.clone()],
    });
    assert!(refusal(&further).ends_with("the select returns column extra, table model_usage_hour has none"));

    let float_money = fields(&|field| match field.name().as_str() {
        "cost_usd" => vec![field.clone().with_data_type(DataType::Float64)],
        _ => vec![field.clone()],
    });
    assert!(
        refusal(&float_money)
            .ends_with("the select returns column cost_usd as Float64, table model_usage_hour has Decimal128(38, 12)")
    );
}

/// Scenario: a rollup of the user's own. Guarantee: its table has the columns that the SELECT returns, in kinds that hold all of
/// their values; what no column can hold, and what is no window, is refused with the place.
#[test]
fn a_rollup_of_the_users_own_gets_the_columns_of_its_select() {
    let text = "-- name: mine\n-- source: spans\n-- schedule: every 1m\n-- window: 1h\n-- keys: model\n--\nSELECT 1 FROM spans \
                WHERE start_time >= $window_start AND start_time < $window_end";
    let definition = Definition::parse("mine.sql", text).expect("it is right");
    let window = Field::new(WINDOW_START, ColumnType::Timestamp.arrow_type(), true);
    let with = |fields: &[Field]| Schema::new(fields.to_vec());
    let field = |name: &str, data_type: DataType| Field::new(name, data_type, true);
    let good = [
        (DataType::UInt64, ColumnType::Int64),
        (DataType::Int8, ColumnType::Int64),
        (DataType::Float32, ColumnType::Float64),
        (DataType::Utf8View, ColumnType::Text),
        (DataType::Decimal128(18, 12), ColumnType::UsdSum),
        (DataType::Decimal128(38, 12), ColumnType::UsdSum),
        (DataType::Decimal128(26, 0), ColumnType::UsdSum),
        (DataType::BinaryView, ColumnType::Histogram),
        (DataType::Boolean, ColumnType::Bool),
    ];
    for (data_type, kind) in good {
        let schema = with(&[window.clone(), field("model", DataType::Utf8), field("x", data_type.clone())]);
        let spec = definition.target(&schema).unwrap_or_else(|error| panic!("{data_type}: {error}"));
        let columns: Vec<_> = spec.columns.iter().map(|column| (column.name, column.column_type)).collect();
        let expected = [
            (DATE, ColumnType::Date),
            (WINDOW_START, ColumnType::Timestamp),
            ("model", ColumnType::Text),
            ("x", kind),
            (REVISION, ColumnType::Int64),
        ];
        assert_eq!(columns, expected);
    }
    let refused = |fields: &[Field]| definition.target(&with(fields)).expect_err("it is wrong").message;
    let model = field("model", DataType::Utf8);
    for data_type in [DataType::Decimal128(38, 0), DataType::Null, DataType::Decimal128(38, 20)] {
        let message = refused(&[window.clone(), model.clone(), field("x", data_type.clone())]);
        assert_eq!(message, format!("mine.sql:7:1: no column can hold x, which the select returns as {data_type}"));
    }
    assert_eq!(refused(std::slice::from_ref(&model)), "mine.sql:7:1: the select returns no column window_start");
    assert_eq!(refused(std::slice::from_ref(&window)), "mine.sql:5:1: key \"model\" is no key column of table mine");
    let naive = field(WINDOW_START, DataType::Date32);
    assert!(refused(&[naive, model.clone()]).contains("window_start is Date32 and no timestamp"));
    assert!(refused(&[window.clone(), model.clone(), model]).contains("column model more than once"));
}

/// Guarantee: what rows depend on is in the fingerprint, and comments and blank lines are not.
#[test]
fn a_fingerprint_tells_selects_apart_and_not_their_comments() {
    let fingerprint = |text: &str| Definition::parse(FILE, text).expect("it is right").fingerprint();
    let same = altered("-- NULL is a value of every key.", "-- Something else.\n\n--");
    assert_eq!(fingerprint(&same), built_in().fingerprint());
    for (from, to) in [("window: 1h", "window: 30m"), ("count(*) AS requests", "count(1) AS requests")] {
        assert_ne!(fingerprint(&altered(from, to)), built_in().fingerprint(), "{from}");
    }
    assert!(built_in().fingerprint() > 0);
}

#[test]
fn an_error_of_planning_is_placed_in_the_file() {
    let definition = built_in();
    let error = |position| QueryError { kind: QueryErrorKind::Invalid, message: "no such column".to_owned(), position };
    assert_eq!(definition.locate(error(Some((23, 5)))).message, format!("{FILE}:23:5: no such column"));
    let select_line = BUILT_IN[0].1.lines().position(|line| line == "SELECT").expect("there is one") + 1;
    assert_eq!(definition.locate(error(None)).message, format!("{FILE}:{select_line}:1: no such column"));
}

#[test]
fn durations_are_whole_numbers_with_a_unit() {
    assert_eq!(parse_duration("250ms"), Some(Duration::from_millis(250)));
    assert_eq!(parse_duration("10s"), Some(Duration::from_secs(10)));
    assert_eq!(parse_duration("1d"), Some(Duration::from_secs(86_400)));
    for wrong in ["", "1", "m", "0s", "1.5h", "-1s", "1 m", "99999999999999999999s", "18446744073709551615d"] {
        assert_eq!(parse_duration(wrong), None, "{wrong:?}");
    }
}
