use std::sync::Arc;

use async_trait::async_trait;
use spanlake_schema::TableSpec;
use spanlake_storage::{TableSource, TableView};

/// Tables as they were captured, under the names that the statements of a verification use.
#[derive(Debug)]
pub(super) struct Pinned(Vec<(&'static TableSpec, TableView)>);

/// The table of whichever signal is verified.
static ITEMS: TableSpec = TableSpec { name: "items", ..spanlake_schema::spans::SPEC };

impl Pinned {
    /// Shows `items` as that, and every other view under its table's name.
    pub(super) fn new<'a>(views: impl IntoIterator<Item = (&'a str, &'a TableView)>) -> Self {
        let named = |(name, view): (&str, &TableView)| {
            let spec = if name == ITEMS.name { &ITEMS } else { view.table.spec() };
            (spec, view.clone())
        };
        Self(views.into_iter().map(named).collect())
    }

    pub(super) fn shared(self) -> Arc<dyn TableSource> {
        Arc::new(self)
    }
}

#[async_trait]
impl TableSource for Pinned {
    fn tables(&self, _tenant: &str) -> Vec<&'static TableSpec> {
        self.0.iter().map(|(spec, _)| *spec).collect()
    }

    async fn view(&self, _tenant: &str, table: &str) -> spanlake_storage::Result<Option<TableView>> {
        Ok(self.0.iter().find(|(spec, _)| spec.name == table).map(|(_, view)| view.clone()))
    }
}
