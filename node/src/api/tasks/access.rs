//! Who may run which transactions again.

use std::collections::BTreeSet;

use bson::doc;
use bson::oid::ObjectId;

use crate::api::auth::Caller;
use crate::api::context::Api;
use crate::api::error::{self, Fault, Refusal};
use crate::model::role::{Permission, Specified};
use crate::store::{Collection, Find};

/// What a caller may run again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::api) enum Reruns {
    Everything,
    /// What came through these channels.
    Of(Vec<String>),
}

impl Reruns {
    /// What the caller's roles grant.
    pub(in crate::api) fn of(caller: &Caller) -> Self {
        if caller.may(Permission::TransactionRerunAll) {
            return Self::Everything;
        }
        let channels = caller.named(Specified::TransactionRerun);
        Self::Of(channels.into_iter().map(str::to_owned).collect())
    }
}

/// Lets the caller on if the roles grant every one of these channels. `any` and `these` say what is refused.
pub(super) fn check(caller: &Caller, channels: &[ObjectId], any: &str, these: &str) -> Result<(), Refusal> {
    let Reruns::Of(granted) = Reruns::of(caller) else {
        return Ok(());
    };
    if granted.is_empty() {
        return Err(Refusal::Forbidden(format!(
            "User is not authorised to {any} for any channel"
        )));
    }
    let refused: Vec<String> = channels
        .iter()
        .map(|id| id.to_hex())
        .filter(|id| !granted.contains(id))
        .collect();
    if refused.is_empty() {
        return Ok(());
    }
    Err(Refusal::Forbidden(format!(
        "User is not authorised to {these} {}",
        refused.join(", ")
    )))
}

/// The channels through which these transactions came. Transactions that do not exist have none.
pub(super) async fn channels_of(api: &Api, ids: &[String]) -> Result<Vec<ObjectId>, Fault> {
    let mut find = Find::by(doc! {"_id": {"$in": object_ids(ids)?}});
    find.projection = doc! {"channelID": 1};
    let mut channels = BTreeSet::new();
    let mut cursor = api.store().find(Collection::Transactions, find).await?;
    while let Some(transaction) = cursor.next().await {
        if let Ok(channel) = transaction?.get_object_id("channelID") {
            channels.insert(channel);
        }
    }
    Ok(channels.into_iter().collect())
}

/// The ids as the store knows them.
pub(super) fn object_ids(ids: &[String]) -> Result<Vec<ObjectId>, Fault> {
    ids.iter().map(|id| error::id(id, "Transaction")).collect()
}
