//! Several tables at one moment.

use super::{Shared, TableView};
use crate::{Error, ErrorKind, Result};

/// A view takes microseconds, and frames become durable at most a few thousand times a second.
const TRIES_MAX: usize = 10_000;

/// Views of several tables that belong together: where one of them shows a frame, all of them do.
#[derive(Clone, Debug, Default)]
pub struct Capture {
    /// One view for each table that there is, in the order asked for.
    pub views: Vec<TableView>,
    /// The writer whose own log was at hand, as the tables' application transactions name it: its rows are all there,
    /// committed or hot. Of other writers a table may hold frames that another one lacks.
    pub writer: Option<String>,
}

impl Shared {
    /// All rows of a frame become visible at once, so that views belong together if no frame did between them.
    pub(super) async fn capture(&self, tenant: &str, tables: &[&str]) -> Result<Capture> {
        for _ in 0..TRIES_MAX {
            let before = self.hot.last_position();
            let views =
                tables.iter().filter_map(|table| self.view(tenant, table).transpose()).collect::<Result<_>>()?;
            if self.hot.last_position() == before {
                return Ok(Capture { views, writer: Some(self.app_id.clone()) });
            }
            tokio::task::yield_now().await;
        }
        let message = format!("tables {} of tenant {tenant} never stood still for a moment", tables.join(", "));
        Err(Error::new(ErrorKind::Retry, message))
    }
}
