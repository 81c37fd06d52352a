//! `POST /authenticate/openid`: logs in with the code that an OpenID Connect provider gave to the browser.
//!
//! The code is exchanged for tokens directly with the provider ([`exchange`]); their signature ([`signature`]) and their
//! claims are checked ([`claims`]). The user is made or renewed by what the tokens say. The browser made `state` and, in
//! most libraries, `nonce`, and checks the first itself; the second is compared with the token's if the browser sends it.

mod claims;
mod exchange;
mod signature;

use bson::oid::ObjectId;
use bson::{Bson, Document, doc};
use http::StatusCode;
use serde_json::Value;

use self::claims::{Identity, Profile};
use self::exchange::Tokens;
use super::{gate, local};
use crate::api::context::{Api, Call};
use crate::api::error::{Doing, Fault, Refusal};
use crate::api::router::Answer;
use crate::model::json;
use crate::model::schema::tables::USER;
use crate::store::{Collection, FindAndUpdate, Write};

/// `POST /authenticate/openid`
pub(in crate::api) async fn log_in(call: Call) -> Answer {
    let api = &call.api;
    if let Some(error) = call.body.text("error") {
        return Err(refused_by_provider(error));
    }
    let settings = api
        .settings
        .api
        .openid
        .as_ref()
        .ok_or_else(|| Fault::Other("api.openid is not set".into()))
        .internal()?;
    let code = call.body.text("code").filter(|code| !code.is_empty());
    let code = code
        .ok_or_else(|| Fault::Type("the request has no code".into()))
        .internal()?;
    let tokens = exchange::tokens(api, settings, code).await.internal()?;
    let identity = Identity::of(&tokens.id_token).internal()?;
    let issuer = settings.issuer_url.as_deref().unwrap_or(&settings.url);
    let needs_auth_time = api.settings.api.max_age > 0;
    let is_ours = identity.is_meant_for(issuer, &settings.client_id, api.clock.now(), needs_auth_time)
        && identity.answers(call.body.text("nonce"));
    if !is_ours {
        return Err(Refusal::Forbidden("Forbidden".into()));
    }
    let keys = exchange::keys(api, settings).await;
    let signed = |token| match keys.vouch_for(token, &settings.client_secret) {
        true => Ok(()),
        false => {
            tracing::warn!("Refused a login: the OpenID Connect provider did not sign the tokens that it sent");
            Err(Refusal::Forbidden("Forbidden".into()))
        }
    };
    signed(&tokens.id_token)?;
    if !gate::is_enabled(api, "openid") {
        return Err(Refusal::Unauthenticated);
    }
    if let Some(user) = call.session.user() {
        return Ok(local::logged_in(api, user));
    }
    let Some(profile) = Profile::of(&identity, &tokens.access_token, &settings.client_id) else {
        return Err(Refusal::Unauthenticated);
    };
    signed(&tokens.access_token)?;
    match keep(api, issuer, &tokens, &profile).await.internal()? {
        Some(user) => Ok(local::logged_in(api, &user)),
        None => Err(Refusal::Unauthenticated),
    }
}

fn refused_by_provider(error: &str) -> Refusal {
    match error {
        "access_denied" => Refusal::Unauthenticated,
        "server_error" => Refusal::Status(StatusCode::BAD_GATEWAY),
        "temporarily_unavailable" => Refusal::Status(StatusCode::SERVICE_UNAVAILABLE),
        other => Refusal::Internal(Fault::Provider(format!("the provider refused: {other}"))),
    }
}

/// Makes or renews the user and remembers the tokens; `None` if the profile makes no valid user.
async fn keep(api: &Api, issuer: &str, tokens: &Tokens, profile: &Profile) -> Result<Option<Document>, Fault> {
    let set = doc! {
        "groups": &profile.groups,
        "email": &profile.email,
        "firstname": &profile.firstname,
        "surname": &profile.surname,
        "provider": "openid",
        "token": Bson::Null,
        "tokenType": Bson::Null,
        "locked": false,
        "expiry": Bson::Null,
    };
    if USER.check_change(&doc! {"$set": set.clone()}).is_err() {
        return Ok(None);
    }
    let upsert = FindAndUpdate {
        filter: doc! {"email": &profile.email},
        update: doc! {"$set": set, "$setOnInsert": {"__v": 0}},
        upsert: true,
        return_new: true,
        ..FindAndUpdate::default()
    };
    let user = api.store().find_and_update(Collection::Users, upsert).await?;
    remember(api, issuer, tokens, profile).await?;
    api.changed(Collection::Users).await;
    Ok(user)
}

async fn remember(api: &Api, issuer: &str, tokens: &Tokens, profile: &Profile) -> Result<(), Fault> {
    let upsert = Write::Update {
        of: Collection::Passports,
        filter: doc! {"protocol": "openid", "issuer": issuer, "identifier": &profile.identifier},
        update: doc! {
            "$set": {"accessToken": &tokens.access_token, "tokens": json::to_bson(tokens.kept())?},
            "$setOnInsert": {"_id": ObjectId::new(), "email": &profile.email, "__v": 0},
        },
        many: false,
        upsert: true,
    };
    api.store().apply(upsert).await?;
    Ok(())
}

/// A text property that is not empty.
fn text<'v>(object: &'v Value, name: &str) -> Option<&'v str> {
    object.get(name).and_then(Value::as_str).filter(|text| !text.is_empty())
}
