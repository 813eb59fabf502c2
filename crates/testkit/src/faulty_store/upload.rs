//! Uploads in parts that fail as their store does.

use async_trait::async_trait;
use object_store::{MultipartUpload, PutPayload, PutResult, Result, UploadPart};

use super::{Fault, Faults, Operation, injected};

#[derive(Debug)]
pub(super) struct FaultyUpload {
    pub(super) inner: Box<dyn MultipartUpload>,
    pub(super) path: String,
    pub(super) faults: Faults,
}

#[async_trait]
impl MultipartUpload for FaultyUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let part = self.inner.put_part(data);
        let (faults, path) = (self.faults.clone(), self.path.clone());
        Box::pin(async move {
            let fault = faults.meet(Operation::PutPart, &path).await;
            if matches!(fault, Some(Fault::Fail | Fault::Truncate | Fault::Late)) {
                return Err(injected(Operation::PutPart, &path));
            }
            part.await?;
            if fault == Some(Fault::LostAnswer) {
                return Err(injected(Operation::PutPart, &path));
            }
            Ok(())
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let fault = self.faults.meet(Operation::Complete, &self.path).await;
        if matches!(fault, Some(Fault::Fail | Fault::Truncate | Fault::Late)) {
            return Err(injected(Operation::Complete, &self.path));
        }
        let result = self.inner.complete().await?;
        if fault == Some(Fault::LostAnswer) {
            return Err(injected(Operation::Complete, &self.path));
        }
        Ok(result)
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}
