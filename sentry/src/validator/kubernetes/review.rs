//! Asking the API server whose token it is.

use std::fmt;

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::Semaphore;

use super::{Denied, ServiceAccount, service_account};
use crate::validator::Error;

/// Reviews under way at once: enough for a thousand sidecars that start together, and no flood for the API server.
const CONCURRENT: usize = 64;

/// Reviews tokens. Nothing is remembered: a token is shown about twice a day, and may be revoked at any moment.
pub(crate) struct Reviewer {
    reviews: Api<TokenReview>,
    audiences: Vec<String>,
    permits: Semaphore,
}

impl fmt::Debug for Reviewer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reviewer")
            .field("audiences", &self.audiences)
            .finish_non_exhaustive()
    }
}

impl Reviewer {
    /// A token must be meant for one of the audiences.
    pub(crate) fn new(client: Client, audiences: Vec<String>) -> Self {
        Self {
            reviews: Api::all(client),
            audiences,
            permits: Semaphore::new(CONCURRENT),
        }
    }

    /// Whose token it is.
    pub(crate) async fn review(&self, token: &str) -> Result<ServiceAccount, Error> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                audiences: Some(self.audiences.clone()),
                token: Some(token.to_owned()),
            },
            ..Default::default()
        };
        let answer = {
            // The semaphore is never closed; without a permit the request would only go unbounded.
            let _permit = self.permits.acquire().await;
            self.reviews.create(&PostParams::default(), &review).await
        };
        let status = answer.map_err(Error::Review)?.status.unwrap_or_default();
        if let Some(reason) = status.error.filter(|it| !it.is_empty()) {
            return Err(Denied::Review(reason).into());
        }
        if status.authenticated != Some(true) {
            return Err(Denied::NotAuthenticated.into());
        }
        let user = status.user.and_then(|it| it.username).unwrap_or_default();
        Ok(service_account(&user)?)
    }
}
