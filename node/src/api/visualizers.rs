//! `/visualizers`: how live traffic is drawn.

use super::auth::Caller;
use super::context::Call;
use super::documents::Resource;
use super::error::{Doing, Refusal};
use super::reply::Reply;
use super::router::Answer;
use crate::model::role::Permission;
use crate::model::schema::tables::VISUALIZER;
use crate::store::{Collection, Find};

const VISUALIZERS: Resource = Resource {
    collection: Collection::Visualizers,
    schema: &VISUALIZER,
};

/// `GET /visualizers`
pub(super) async fn list(call: Call, caller: Caller) -> Answer {
    caller.require("getVisualizers", Permission::VisualizerView)?;
    let visualizers = VISUALIZERS.shown(&call.api, Find::default()).await;
    Ok(Reply::documents(
        &visualizers.doing("Could not fetch visualizers via the API:")?,
    )?)
}

/// `GET /visualizers/:visualizerId`
pub(super) async fn read(call: Call, caller: Caller) -> Answer {
    caller.require("getVisualizer", Permission::VisualizerView)?;
    let id = call.params.get("visualizerId");
    let found = VISUALIZERS.show(&call.api, &id).await;
    match found.doing("Could not fetch visualizer via the API:")? {
        Some(visualizer) => Ok(Reply::document(&visualizer)?),
        None => Err(Refusal::NotFound(format!(
            "Visualizer with _id {id} could not be found."
        ))),
    }
}

/// `POST /visualizers`
pub(super) async fn create(call: Call, caller: Caller) -> Answer {
    const DOING: &str = "Could not add visualizer via the API:";
    caller.require("addVisualizer", Permission::VisualizerManage)?;
    if !has_body(&call) {
        return Err(Refusal::NotFound("Cannot Add Visualizer, no request object".into()));
    }
    VISUALIZERS
        .add(&call.api, call.body.document().doing(DOING)?)
        .await
        .doing(DOING)?;
    tracing::info!("User {} created a visualizer", caller.email());
    Ok(Reply::created_text("Visualizer successfully created"))
}

/// `PUT /visualizers/:visualizerId`
pub(super) async fn update(call: Call, caller: Caller) -> Answer {
    caller.require("updateVisualizer", Permission::VisualizerManage)?;
    let id = call.params.get("visualizerId");
    if !has_body(&call) {
        return Err(Refusal::NotFound(format!(
            "Cannot Update Visualizer with _id {}, no request object",
            call.params.once("visualizerId")
        )));
    }
    let doing = format!("Could not update visualizer with _id {id} via the API");
    let body = call.body.document().doing(&doing)?;
    if !VISUALIZERS.set(&call.api, &id, body).await.doing(&doing)? {
        return Err(Refusal::NotFound(format!(
            "Cannot Update Visualizer with _id {id}, does not exist"
        )));
    }
    tracing::info!("User {} updated visualizer with _id {id}", caller.email());
    Ok(Reply::ok_text(format!("Successfully updated visualizer with _id {id}")))
}

/// `DELETE /visualizers/:visualizerId`
pub(super) async fn delete(call: Call, caller: Caller) -> Answer {
    caller.require("removeVisualizer", Permission::VisualizerManage)?;
    let id = call.params.get("visualizerId");
    let doing = format!("Could not remove visualizer with _id {id} via the API");
    if !VISUALIZERS.remove(&call.api, &id).await.doing(&doing)? {
        return Err(Refusal::NotFound(format!("Could not find visualizer with _id {id}")));
    }
    tracing::info!("User {} removed visualizer with _id {id}", caller.email());
    Ok(Reply::ok_text(format!("Successfully removed visualizer with _id {id}")))
}

/// True if the request has a body that was understood.
fn has_body(call: &Call) -> bool {
    call.body.raw_length.is_some_and(|length| length > 0)
}
