//! Views: SELECTs with a name, one a file.
//!
//! The product's own lie in `sql/views/`, a user's in the folder `views` of `sql_dir`. Every query sees all of them beside the
//! tables. A view may read other views; a circle is refused at load, as is whatever else planning finds wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use datafusion::sql::parser::Statement;
use datafusion::sql::resolve::resolve_table_references;
use datafusion::sql::sqlparser::ast::Statement as SqlStatement;
use spanlake_schema::{TABLES, messages};

use crate::attributes::PROMOTED_COLUMNS;
use crate::contents::CONTENT;
use crate::sql_file::{self, Header, error_at};
use crate::{QueryError, guard, rollup};

/// What the header of a view tells.
const HEADER_KEYS: &[&str] = &["name", "description", "contents"];

macro_rules! built_in {
    ($($name:literal),* $(,)?) => {
        &[$((
            concat!("sql/views/", $name, ".sql"),
            include_str!(concat!("../../../sql/views/", $name, ".sql")),
        )),*]
    };
}

/// The views that come with the product: file and text.
const BUILT_IN: &[(&str, &str)] = built_in![
    "agents",
    "attribute_values",
    "attributes",
    "client_operation_duration",
    "client_token_usage",
    "completeness",
    "conversations",
    "cost_disagreements",
    "evaluations",
    "llm_calls",
    "messages",
    "metric_totals",
    "retrievals",
    "slow_calls",
    "tool_calls",
    "unpriced_models",
];

/// One view.
#[derive(Clone, Debug)]
pub(crate) struct View {
    /// Its name in SQL.
    pub(crate) name: String,
    /// One sentence for people.
    pub(crate) description: String,
    /// Its SELECT, as parsed.
    pub(crate) statement: Statement,
    /// Its SELECT, as written.
    pub(crate) sql: String,
    /// Whether its contents are filled in from the table of contents (header `contents: content`).
    pub(crate) fills: bool,
    /// Path of the file, for messages.
    file: String,
    select_line: usize,
    /// The tables and views that it names.
    reads: BTreeSet<String>,
    /// The tables that it reads, through other views too.
    pub(crate) tables: BTreeSet<String>,
}

impl View {
    fn parse(file: &str, text: &str) -> Result<Self, QueryError> {
        let header = Header::parse(file, text, HEADER_KEYS)?;
        let name = header.plain_name()?;
        if is_table(&name.value) {
            return Err(header.error(name, format!("name {} is that of a table", name.value)));
        }
        let (name, description) = (name.value.clone(), header.required("description")?.value.clone());
        let fills = match header.optional("contents") {
            Some(entry) if entry.value != CONTENT => {
                return Err(header.error(entry, format!("contents can be filled into the column {CONTENT} only")));
            }
            found => found.is_some(),
        };
        let select_line = header.select_line;
        // The comments before the SELECT stay, so that lines count as in the file.
        let sql = text.trim_end().trim_end_matches(';').to_owned();
        let at_select = |message: &str| error_at(file, select_line, 1, message);
        let statement = guard::parse(&sql).map_err(|error| located(file, select_line, error))?;
        if !matches!(&statement, Statement::Statement(inner) if matches!(**inner, SqlStatement::Query(_))) {
            return Err(at_select("a view is exactly one select"));
        }
        let (relations, _) =
            resolve_table_references(&statement, true).map_err(|error| at_select(&error.strip_backtrace()))?;
        let reads = relations.iter().map(ToString::to_string).collect();
        let tables = BTreeSet::new();
        Ok(Self { name, description, statement, sql, fills, file: file.to_owned(), select_line, reads, tables })
    }

    /// An error that planning the SELECT gave: named by file, and by line and column where it knows them.
    pub(crate) fn locate(&self, error: QueryError) -> QueryError {
        located(&self.file, self.select_line, error)
    }

    /// An error of the SELECT as a whole.
    pub(crate) fn error(&self, message: &str) -> QueryError {
        error_at(&self.file, self.select_line, 1, message)
    }
}

fn is_table(name: &str) -> bool {
    TABLES.iter().any(|spec| spec.name == name) || name == PROMOTED_COLUMNS.name || rollup::is_built_in(name)
}

fn located(file: &str, select_line: usize, error: QueryError) -> QueryError {
    let (line, column) = error.position.unwrap_or((select_line as u64, 1));
    QueryError {
        message: format!("{file}:{line}:{column}: {}", error.message),
        position: Some((line, column)),
        ..error
    }
}

/// All views, by name.
#[derive(Clone, Debug, Default)]
pub struct Views {
    views: BTreeMap<String, View>,
}

impl Views {
    /// The views that come with the product.
    ///
    /// # Errors
    /// [`crate::QueryErrorKind::Invalid`] where a file is wrong; the message names file, line and column.
    pub fn built_in() -> Result<Self, QueryError> {
        Self::of(BUILT_IN.iter().copied())
    }

    /// The product's views and those of a user: the files `views/*.sql` below `sql_dir`, where there are any.
    ///
    /// # Errors
    /// [`crate::QueryErrorKind::Invalid`] where the directory cannot be read or a file is wrong; the message names it, line
    /// and column.
    pub fn with_user_files(sql_dir: &Path) -> Result<Self, QueryError> {
        let unreadable = |path: &Path, error: std::io::Error| {
            QueryError::invalid(format!("sql_dir: cannot read {}: {error}", path.display()))
        };
        // A directory that is not there is a mistake; one without views is none.
        std::fs::read_dir(sql_dir).map_err(|error| unreadable(sql_dir, error))?;
        let folder = sql_dir.join("views");
        let files: Vec<(String, String)> = sql_file::read_folder(&folder)?
            .into_iter()
            .map(|(path, text)| (path.to_string_lossy().into_owned(), text))
            .collect();
        let files = files.iter().map(|(file, text)| (file.as_str(), text.as_str()));
        Self::of(BUILT_IN.iter().copied().chain(files))
    }

    fn of<'a>(files: impl Iterator<Item = (&'a str, &'a str)>) -> Result<Self, QueryError> {
        let mut views: BTreeMap<String, View> = BTreeMap::new();
        for (file, text) in files {
            let view = View::parse(file, text)?;
            if let Some(other) = views.get(&view.name) {
                return Err(error_at(file, 1, 1, &format!("view {} is defined in {} too", view.name, other.file)));
            }
            views.insert(view.name.clone(), view);
        }
        let mut views = Self { views };
        for name in views.views.keys().cloned().collect::<Vec<_>>() {
            let tables = views.tables_of(&name, &mut Vec::new())?;
            if let Some(view) = views.views.get_mut(&name) {
                view.tables = tables;
            }
        }
        Ok(views)
    }

    /// The tables that a view reads in the end; `path` holds the views that led to it.
    fn tables_of(&self, name: &str, path: &mut Vec<String>) -> Result<BTreeSet<String>, QueryError> {
        let Some(view) = self.views.get(name) else { return Ok(BTreeSet::new()) };
        path.push(name.to_owned());
        let mut tables = BTreeSet::new();
        if view.fills {
            tables.insert(messages::CONTENTS_SPEC.name.to_owned());
        }
        for read in &view.reads {
            if path.contains(read) {
                return Err(view.error(&format!("views read each other in a circle: {} → {read}", path.join(" → "))));
            }
            if self.views.contains_key(read) {
                tables.append(&mut self.tables_of(read, path)?);
            } else if is_table(read) {
                tables.insert(read.clone());
            } else {
                return Err(view.error(&format!("there is no table and no view {read}")));
            }
        }
        path.pop();
        Ok(tables)
    }

    /// Names and descriptions, in the order of the names.
    pub fn list(&self) -> impl Iterator<Item = (&str, &str)> {
        self.views.values().map(|view| (view.name.as_str(), view.description.as_str()))
    }

    pub(crate) fn get(&self, name: &str) -> Option<&View> {
        self.views.get(name)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &View> {
        self.views.values()
    }
}

#[cfg(test)]
mod tests;
