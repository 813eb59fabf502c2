//! The control service, generated from `proto/spanlake/control/v1/control.proto`.

tonic::include_proto!("spanlake.control.v1");
