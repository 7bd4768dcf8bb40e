//! The field mapping between the two versions.

use super::{v1alpha1, v2alpha1};
use crate::meta::{V1Alpha1, V2Alpha1};

impl From<v1alpha1::Subscription> for v2alpha1::Subscription {
    /// The single route becomes the default route.
    fn from(v1: v1alpha1::Subscription) -> Self {
        let v1alpha1::Subscription {
            api_version: V1Alpha1,
            metadata,
            spec,
            scopes,
        } = v1;
        let v1alpha1::SubscriptionSpec {
            pubsubname,
            topic,
            route,
            dead_letter_topic,
            metadata: settings,
            bulk_subscribe,
        } = spec;
        let routes = v2alpha1::Routes {
            rules: Vec::new(),
            default: route,
        };
        let spec = v2alpha1::SubscriptionSpec {
            pubsubname,
            topic,
            routes,
            dead_letter_topic,
            metadata: settings,
            bulk_subscribe,
        };
        Self {
            api_version: V2Alpha1,
            metadata,
            spec,
            scopes,
        }
    }
}

impl From<v2alpha1::Subscription> for v1alpha1::Subscription {
    /// The default route becomes the only one; rules have no field in `v1alpha1`. Who converts objects keeps them.
    fn from(v2: v2alpha1::Subscription) -> Self {
        let v2alpha1::Subscription {
            api_version: V2Alpha1,
            metadata,
            spec,
            scopes,
        } = v2;
        let v2alpha1::SubscriptionSpec {
            pubsubname,
            topic,
            routes,
            dead_letter_topic,
            metadata: settings,
            bulk_subscribe,
        } = spec;
        let route = routes.default;
        let spec = v1alpha1::SubscriptionSpec {
            pubsubname,
            topic,
            route,
            dead_letter_topic,
            metadata: settings,
            bulk_subscribe,
        };
        Self {
            api_version: V1Alpha1,
            metadata,
            spec,
            scopes,
        }
    }
}
