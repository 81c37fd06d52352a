//! `/users`: the people who use the console and the API.
//!
//! How a user proves who they are is kept apart from the user, in passports ([`passports`]); a link by mail lets people
//! choose their password ([`invitation`]).

mod invitation;
mod mail;
mod passports;

use bson::{Bson, Document, doc};

pub(super) use invitation::{read_by_token, request_reset, update_by_token};

use super::auth::{self, Caller};
use super::context::{Api, Call};
use super::documents::Resource;
use super::error::{Doing, Fault, Refusal};
use super::reply::Reply;
use super::router::Answer;
use crate::crypto::token;
use crate::model::role::Permission;
use crate::model::schema::Operators;
use crate::model::schema::tables::USER;
use crate::model::user::ROOT_EMAIL;
use crate::store::{Collection, Find, Write};
use passports::Secret;

const USERS: Resource = Resource {
    collection: Collection::Users,
    schema: &USER,
};

/// Random bytes in a token that lets somebody choose a password.
const TOKEN_BYTES: usize = 16;

/// What a user from an OpenID provider may change here.
const OWN_OF_OPENID: [&str; 4] = ["msisdn", "dailyReport", "weeklyReport", "settings"];

/// `GET /users`
pub(super) async fn list(call: Call, caller: Caller) -> Answer {
    caller.require("getUsers", Permission::UserView)?;
    let users = USERS.shown(&call.api, Find::default()).await;
    let users = users.doing("Could not fetch all users via the API")?;
    Ok(Reply::documents(
        &users.into_iter().map(without_token).collect::<Vec<_>>(),
    )?)
}

/// `GET /users/:email`
pub(super) async fn read(call: Call, caller: Caller) -> Answer {
    let email = call.params.get("email");
    if email != caller.email() {
        caller.require("getUser", Permission::UserView)?;
    }
    let found = auth::by_email(&call.api, &email).await;
    match found.doing("Could not get user via the API")? {
        Some(user) => Ok(Reply::document(&without_token(USER.show(
            user,
            &[],
            call.api.clock.now(),
        )))?),
        None => Err(unknown(&email)),
    }
}

/// `POST /users`
pub(super) async fn create(call: Call, caller: Caller) -> Answer {
    const DOING: &str = "Could not add user via the API";
    caller.require("addUser", Permission::UserManage)?;
    let api = &call.api;
    let mut body = call.body.document().internal()?;
    let Some(email) = body.get_str("email").ok().map(str::to_lowercase) else {
        return Err(Fault::Type(
            "Cannot read properties of undefined (reading 'toLowerCase')".into(),
        ))
        .internal();
    };
    let secret = Secret::take(&mut body);
    let token = token::random(TOKEN_BYTES);
    body.extend(doc! {
        "email": &email, "token": &token, "tokenType": "newUser", "locked": true,
        "expiry": invitation::expiry(api.clock.now(), &api.settings.new_user_expiry),
    });
    if let Some(provider) = secret.provider() {
        body.insert("provider", provider);
    }
    let user = USERS.add(api, body).await.doing(DOING)?;
    if let Err(fault) = passports::begin(api, &email, secret).await {
        tracing::error!(error = %fault, "Error while trying to create a passport for {email}: {fault}");
    }
    mail::invite(api, &user, &token);
    tracing::info!("User {} created user {email}", caller.email());
    Ok(Reply::created_text("User successfully created"))
}

/// `PUT /users/:email`
pub(super) async fn update(call: Call, caller: Caller) -> Answer {
    let email = call.params.get("email");
    let is_own = email == caller.email();
    if !is_own {
        caller.require("updateUser", Permission::UserManage)?;
    }
    let api = &call.api;
    let doing = format!("Could not update user {email} via the API");
    let Some(user) = auth::by_email(api, &email).await.doing(&doing)? else {
        return Err(unknown(&email));
    };
    let mut body = call.body.document().doing(&doing)?;
    let secret = Secret::take(&mut body);
    let may_set_groups = caller.may(Permission::UserManage);
    change(api, &user, body, secret, may_set_groups).await.doing(&doing)?;
    tracing::info!("User {} updated user {email}", caller.email());
    Ok(Reply::ok_text("Successfully updated user."))
}

/// `DELETE /users/:email`: with the passports, so that nobody inherits them.
pub(super) async fn delete(call: Call, caller: Caller) -> Answer {
    caller.require("removeUsers", Permission::UserManage)?;
    let api = &call.api;
    let email = call.params.get("email");
    if email.eq_ignore_ascii_case(ROOT_EMAIL) {
        return Err(Refusal::Forbidden(
            "User root@openhim.org is OpenHIM root, User cannot be deleted through the API".into(),
        ));
    }
    let doing = format!("Could not remove user {email} via the API");
    if let Some(user) = auth::by_email(api, &email).await.doing(&doing)? {
        remove(api, &user).await.doing(&doing)?;
    }
    tracing::info!("User {} removed user {email}", caller.email());
    Ok(Reply::ok_text(format!("Successfully removed user with email {email}")))
}

async fn remove(api: &Api, user: &Document) -> Result<(), Fault> {
    let batch = vec![
        Write::Delete {
            from: Collection::Users,
            filter: doc! {"_id": id_of(user)},
            many: false,
        },
        Write::Delete {
            from: Collection::Passports,
            filter: doc! {"email": email_of(user)},
            many: true,
        },
    ];
    for outcome in api.store().write(&batch).await? {
        outcome?;
    }
    api.changed(Collection::Users).await;
    Ok(())
}

/// Applies what a new user made of the body would be, as OpenHIM does: without a provider it becomes `local`.
async fn change(api: &Api, user: &Document, body: Document, secret: Secret, may_set_groups: bool) -> Result<(), Fault> {
    let names_groups = body.contains_key("groups");
    let (mut changes, _) = USER.make(body.clone(), api.clock.now());
    changes.remove("_id");
    changes.remove("__v");
    if !names_groups || !may_set_groups {
        changes.remove("groups");
    }
    if secret.is_some() {
        changes.extend(unlocked());
    }
    if user.get_str("provider").ok() == Some("openid") {
        let kept = OWN_OF_OPENID
            .iter()
            .filter_map(|field| Some(((*field).to_owned(), changes.remove(*field)?)));
        let kept: Document = kept.collect();
        return set(api, user, kept).await;
    }
    if secret.is_trio() && !body.contains_key("provider") {
        changes.insert("provider", "token");
    }
    let email = changes.get_str("email").unwrap_or(email_of(user)).to_owned();
    set(api, user, changes).await?;
    passports::rename(api, email_of(user), &email).await?;
    passports::set(api, &email, secret).await
}

/// Nothing is left of a token that has served.
fn unlocked() -> Document {
    doc! {"token": Bson::Null, "tokenType": Bson::Null, "expiry": Bson::Null, "locked": false}
}

async fn set(api: &Api, user: &Document, changes: Document) -> Result<(), Fault> {
    let update = USER.change(changes, Operators::Refused, api.clock.now())?;
    if !update.is_empty() {
        api.store()
            .update(Collection::Users, doc! {"_id": id_of(user)}, update)
            .await?;
        api.changed(Collection::Users).await;
    }
    Ok(())
}

/// Whoever reads a token could choose the user's password.
fn without_token(mut user: Document) -> Document {
    if matches!(user.get("token"), Some(Bson::String(_))) {
        user.remove("token");
    }
    user
}

fn unknown(email: &str) -> Refusal {
    Refusal::NotFound(format!("User with email {email} could not be found."))
}

fn id_of(user: &Document) -> Bson {
    user.get("_id").cloned().unwrap_or(Bson::Null)
}

fn email_of(user: &Document) -> &str {
    user.get_str("email").unwrap_or_default()
}
