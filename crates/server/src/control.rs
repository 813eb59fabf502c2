//! Control over gRPC: lists and runs rollups.

use std::sync::Arc;

use axum::Router;
use spanlake_query::rollup::{RollupStatus, RunReport};
use spanlake_query::{QueryError, QueryErrorKind};
use tonic::{Request, Response, Status};

use crate::gate::Gate;
use crate::proto::rollup_service_server::{RollupService, RollupServiceServer};
use crate::proto::{ListRollupsRequest, ListRollupsResponse, Rollup, RunRollupRequest, RunRollupResponse};

/// The listener's routes.
pub(crate) fn router(gate: Arc<Gate>) -> Router {
    tonic::service::Routes::new(RollupServiceServer::new(Control { gate })).prepare().into_axum_router()
}

#[derive(Debug)]
struct Control {
    gate: Arc<Gate>,
}

#[tonic::async_trait]
impl RollupService for Control {
    async fn list_rollups(&self, _: Request<ListRollupsRequest>) -> Result<Response<ListRollupsResponse>, Status> {
        let services = self.gate.services().map_err(|closed| Status::unavailable(closed.message()))?;
        let mut rollups: Vec<_> = services.rollups.list().await.map_err(to_status)?.into_iter().map(rollup).collect();
        rollups.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Response::new(ListRollupsResponse { rollups }))
    }

    async fn run_rollup(&self, request: Request<RunRollupRequest>) -> Result<Response<RunRollupResponse>, Status> {
        let services = self.gate.services().map_err(|closed| Status::unavailable(closed.message()))?;
        let name = request.into_inner().name;
        let known = services.rollups.list().await.map_err(to_status)?;
        if !known.iter().any(|rollup| rollup.name == name) {
            let names: Vec<_> = known.iter().map(|rollup| rollup.name.as_str()).collect();
            return Err(Status::not_found(format!("no rollup `{name}` (known: {})", names.join(", "))));
        }
        Ok(Response::new(report(&services.rollups.run(&name).await.map_err(to_status)?)))
    }
}

fn to_status(error: QueryError) -> Status {
    match error.kind {
        QueryErrorKind::Invalid => Status::invalid_argument(error.message),
        QueryErrorKind::Forbidden => Status::permission_denied(error.message),
        QueryErrorKind::Timeout => Status::deadline_exceeded(error.message),
        QueryErrorKind::Exhausted => Status::resource_exhausted(error.message),
        QueryErrorKind::Unavailable => Status::unavailable(error.message),
        _ => Status::internal(error.message),
    }
}

fn rollup(status: RollupStatus) -> Rollup {
    Rollup {
        name: status.name,
        source: status.source,
        schedule: status.schedule,
        source_version: status.source_version,
        source_latest: status.source_latest,
        last_run: status.last_run_unix_micro.map(|micros| prost_types::Timestamp {
            seconds: micros.div_euclid(1_000_000),
            nanos: i32::try_from(micros.rem_euclid(1_000_000) * 1_000).unwrap_or(0),
        }),
        last_duration: status.last_run_millis.map(|millis| prost_types::Duration {
            seconds: i64::try_from(millis / 1_000).unwrap_or(i64::MAX),
            nanos: i32::try_from(millis % 1_000 * 1_000_000).unwrap_or(0),
        }),
        last_windows: status.last_windows,
        last_error: status.last_error,
    }
}

fn report(report: &RunReport) -> RunRollupResponse {
    RunRollupResponse {
        source_version: report.source_version,
        windows: report.windows,
        rows: report.rows,
        already_done: report.already_done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::rollup_service_client::RollupServiceClient;
    use crate::shutdown::Stop;

    #[tokio::test]
    async fn before_replay_is_done_control_is_unavailable() {
        let mut client = RollupServiceClient::new(router(Gate::new(Stop::new())));
        let status = client.list_rollups(ListRollupsRequest {}).await.expect_err("is closed");
        assert_eq!(status.code(), tonic::Code::Unavailable);
        let status = client.run_rollup(RunRollupRequest { name: "x".to_owned() }).await.expect_err("is closed");
        assert!(status.message().contains("is being replayed"), "{}", status.message());
    }

    #[test]
    fn times_before_1970_and_after_keep_their_parts() {
        let status = RollupStatus {
            name: "hour".to_owned(),
            source: "spans".to_owned(),
            schedule: "1min".to_owned(),
            source_version: Some(3),
            source_latest: 4,
            last_run_unix_micro: Some(-1),
            last_run_millis: Some(1_250),
            last_windows: None,
            last_error: None,
        };
        let rollup = rollup(status);
        let time = rollup.last_run.expect("is set");
        assert_eq!((time.seconds, time.nanos), (-1, 999_999_000));
        let duration = rollup.last_duration.expect("is set");
        assert_eq!((duration.seconds, duration.nanos), (1, 250_000_000));
    }
}
