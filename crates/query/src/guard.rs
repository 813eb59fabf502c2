//! What may run: one statement that reads tables of the lake, of bounded size.
//!
//! Looked at three times: the tokens (size and nesting, before anything recursive touches them), the syntax tree (what
//! kind of statement, which relations), and the logical plan (whatever both missed).

use std::ops::ControlFlow;

use datafusion::error::DataFusionError;
use datafusion::execution::context::SQLOptions;
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::parser::{DFParserBuilder, Statement};
use datafusion::sql::sqlparser::ast::{
    Expr, Ident, ObjectName, Query, Select, ShowCreateObject, Statement as SqlStatement, TableFactor, Visit, Visitor,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::ParserError;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer};

use crate::QueryError;

/// Longest statement. A list of ten thousand trace ids fits.
pub(crate) const STATEMENT_LIMIT_BYTES: usize = 1024 * 1024;

/// Most tokens in a row without a comma, over all open brackets. A chain of operators becomes a tree as deep as it is
/// long, and freeing a tree recurses: this bound and the stack of the query threads belong together.
const RUN_LIMIT_TOKENS: usize = 2_000;

/// Planning looks at each part of an expression once for each part around it, and cannot be interrupted: the sum, over
/// all words and signs, of how deep they stand is bounded. One longest chain takes half of it; lists of values are free.
const PLANNING_LIMIT: usize = 4_000_000;

/// How deep the parser descends into brackets and subqueries.
const PARSER_RECURSION_LIMIT: usize = 50;

/// Table functions that stay within the process.
const TABLE_FUNCTIONS: &[&str] = &["range", "generate_series", "unnest"];

/// Endings that make a relation's name the name of a file.
const FILE_ENDINGS: &[&str] =
    &["parquet", "csv", "tsv", "json", "ndjson", "jsonl", "arrow", "feather", "avro", "orc", "gz", "zst", "txt", "db"];

/// Parses a statement and checks that it only reads.
pub(crate) fn parse(sql: &str) -> Result<Statement, QueryError> {
    if sql.len() > STATEMENT_LIMIT_BYTES {
        return Err(QueryError::invalid(format!(
            "the statement has {} bytes, more than {STATEMENT_LIMIT_BYTES}; bind long lists as parameters",
            sql.len()
        )));
    }
    let mut tokens = Vec::new();
    let dialect = GenericDialect {};
    Tokenizer::new(&dialect, sql)
        .tokenize_with_location_into_buf(&mut tokens)
        .map_err(|error| QueryError::from(DataFusionError::from(ParserError::from(error))))?;
    check_nesting(&tokens)?;
    let leading = leading_keyword(&tokens);
    let end = tokens.last().map(|token| (token.span.end.line, token.span.end.column));
    let parsed = DFParserBuilder::new(tokens)
        .with_dialect(&dialect)
        .with_recursion_limit(PARSER_RECURSION_LIMIT)
        .build()
        .and_then(|mut parser| parser.parse_statements());
    let mut statements = match (parsed, leading) {
        (Ok(statements), _) => statements,
        // A statement that this parser cannot read, but that would write if it could: the reason is more use than a
        // complaint about its syntax.
        (Err(_), Some(keyword)) if writes(keyword) => return Err(refused(&format!("{keyword:?}"))),
        (Err(error), _) => {
            let error = QueryError::from(error);
            // What is missing at the end has no place of its own.
            let position = error.position.or(end);
            return Err(error.at(position));
        }
    };
    let statement = statements.pop_front().ok_or_else(|| QueryError::invalid("the statement is empty"))?;
    check(&statement)?;
    if !statements.is_empty() {
        return Err(QueryError::forbidden("several statements in one request are refused; send them one at a time"));
    }
    Ok(statement)
}

/// Refuses what the syntax tree did not show: a plan that writes, changes the session or calls for another table.
pub(crate) fn check_plan(plan: &LogicalPlan) -> Result<(), QueryError> {
    SQLOptions::new()
        .with_allow_ddl(false)
        .with_allow_dml(false)
        .with_allow_statements(false)
        .verify_plan(plan)
        .map_err(|error| QueryError::forbidden(format!("only reading is allowed here: {}", error.strip_backtrace())))
}

fn refused(what: &str) -> QueryError {
    QueryError::forbidden(format!(
        "{what} is refused: only SELECT, WITH, VALUES, EXPLAIN, SHOW and DESCRIBE run here, and reads never write"
    ))
}

fn check_nesting(tokens: &[TokenWithSpan]) -> Result<(), QueryError> {
    let mut open = vec![0usize];
    let mut run = 0;
    let mut planning = 0;
    for token in tokens {
        match &token.token {
            Token::Whitespace(_) => continue,
            Token::LParen | Token::LBracket | Token::LBrace => open.push(0),
            Token::RParen | Token::RBracket | Token::RBrace if open.len() > 1 => run -= open.pop().unwrap_or_default(),
            Token::Comma => run -= open.last_mut().map(std::mem::take).unwrap_or_default(),
            _ => {}
        }
        if let Some(last) = open.last_mut() {
            *last += 1;
        }
        run += 1;
        if !matches!(token.token, Token::Comma | Token::Number(..) | Token::SingleQuotedString(_)) {
            planning += run;
        }
        if run > RUN_LIMIT_TOKENS || planning > PLANNING_LIMIT {
            let start = token.span.start;
            return Err(QueryError::invalid(format!(
                "the statement is nested too deeply: more than {RUN_LIMIT_TOKENS} words and signs without a comma, or \
                 many long chains; write OR as IN (…), and bind long lists as parameters"
            ))
            .at(Some((start.line, start.column))));
        }
    }
    Ok(())
}

fn leading_keyword(tokens: &[TokenWithSpan]) -> Option<Keyword> {
    tokens.iter().find_map(|token| match &token.token {
        Token::Word(word) => Some(word.keyword),
        _ => None,
    })
}

/// Keywords that begin a statement which changes something, in any dialect.
fn writes(keyword: Keyword) -> bool {
    matches!(
        keyword,
        Keyword::INSERT
            | Keyword::UPDATE
            | Keyword::DELETE
            | Keyword::MERGE
            | Keyword::REPLACE
            | Keyword::CREATE
            | Keyword::DROP
            | Keyword::ALTER
            | Keyword::TRUNCATE
            | Keyword::COPY
            | Keyword::UNLOAD
            | Keyword::SET
            | Keyword::RESET
            | Keyword::USE
            | Keyword::PREPARE
            | Keyword::EXECUTE
            | Keyword::DEALLOCATE
            | Keyword::BEGIN
            | Keyword::START
            | Keyword::COMMIT
            | Keyword::ROLLBACK
            | Keyword::SAVEPOINT
            | Keyword::GRANT
            | Keyword::REVOKE
            | Keyword::ATTACH
            | Keyword::DETACH
            | Keyword::INSTALL
            | Keyword::LOAD
            | Keyword::PRAGMA
            | Keyword::VACUUM
            | Keyword::OPTIMIZE
            | Keyword::CALL
            | Keyword::LOCK
            | Keyword::CACHE
            | Keyword::UNCACHE
            | Keyword::KILL
    )
}

fn check(statement: &Statement) -> Result<(), QueryError> {
    match statement {
        Statement::Statement(statement) => check_sql(statement),
        Statement::Explain(explain) => check(&explain.statement),
        Statement::CreateExternalTable(_) => Err(refused("CREATE EXTERNAL TABLE")),
        Statement::CopyTo(_) => Err(refused("COPY")),
        Statement::Reset(_) => Err(refused("RESET")),
    }
}

fn check_sql(statement: &SqlStatement) -> Result<(), QueryError> {
    match statement.visit(&mut Reads) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}

fn reads(statement: &SqlStatement) -> bool {
    matches!(
        statement,
        SqlStatement::Query(_)
            | SqlStatement::Explain { .. }
            | SqlStatement::ExplainTable { .. }
            | SqlStatement::ShowTables { .. }
            | SqlStatement::ShowColumns { .. }
            | SqlStatement::ShowFunctions { .. }
            | SqlStatement::ShowVariable { .. }
            | SqlStatement::ShowCreate { obj_type: ShowCreateObject::Table | ShowCreateObject::View, .. }
    )
}

/// `CREATE TABLE`, `INSERT INTO`: enough of a statement to name it, nothing of its values.
fn opening_words(statement: &SqlStatement) -> String {
    let text = statement.to_string();
    let words: Vec<&str> = text
        .split_whitespace()
        .take(2)
        .take_while(|word| word.chars().all(|letter| letter.is_ascii_uppercase() || letter == '_'))
        .collect();
    if words.is_empty() { "this statement".to_owned() } else { words.join(" ") }
}

/// Walks a statement and stops at the first part that is more than reading.
struct Reads;

impl Visitor for Reads {
    type Break = QueryError;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<QueryError> {
        if !query.locks.is_empty() {
            return ControlFlow::Break(refused("FOR UPDATE or FOR SHARE"));
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<QueryError> {
        if select.into.is_some() { ControlFlow::Break(refused("SELECT INTO")) } else { ControlFlow::Continue(()) }
    }

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<QueryError> {
        check_relation(relation)
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<QueryError> {
        match factor {
            TableFactor::Table { name, args: Some(_), .. } | TableFactor::Function { name, .. } => {
                check_table_function(&name.to_string())
            }
            TableFactor::TableFunction { expr: Expr::Function(function), .. } => {
                check_table_function(&function.name.to_string())
            }
            TableFactor::TableFunction { .. } => check_table_function("this"),
            _ => ControlFlow::Continue(()),
        }
    }

    fn pre_visit_statement(&mut self, statement: &SqlStatement) -> ControlFlow<QueryError> {
        // Also the statements inside a query: WITH gone AS (DELETE …) SELECT ….
        if reads(statement) {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(refused(&opening_words(statement)))
        }
    }
}

fn check_table_function(name: &str) -> ControlFlow<QueryError> {
    if TABLE_FUNCTIONS.iter().any(|allowed| allowed.eq_ignore_ascii_case(name)) {
        return ControlFlow::Continue(());
    }
    ControlFlow::Break(QueryError::forbidden(format!(
        "table function {name} is refused: queries read the tables of the lake and nothing else; \
         only range, generate_series and unnest are offered"
    )))
}

fn check_relation(relation: &ObjectName) -> ControlFlow<QueryError> {
    let parts: Vec<&Ident> = relation.0.iter().filter_map(|part| part.as_ident()).collect();
    let path = parts.iter().any(|part| part.quote_style == Some('\'') || part.value.contains(['/', '\\', ':', '*']));
    let ending = parts.last().and_then(|last| match last.value.rsplit_once('.') {
        Some((_, ending)) => Some(ending),
        None if parts.len() > 1 => Some(last.value.as_str()),
        None => None,
    });
    let file = ending.is_some_and(|ending| FILE_ENDINGS.iter().any(|known| known.eq_ignore_ascii_case(ending)));
    if !path && !file {
        return ControlFlow::Continue(());
    }
    ControlFlow::Break(QueryError::forbidden(format!(
        "{relation} names a file: queries read the tables of the lake and nothing else"
    )))
}

#[cfg(test)]
mod tests;
