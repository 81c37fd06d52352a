//! One request: admitted, routed, sent to a backend, to another one if that may be, and logged.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::answer::{Answer, To};
use super::exchange::{Exchange, Fault, Finished, Told, Upload, Wanted};
use super::forwarded::Origin;
use super::framing::{Body, Known, Limits, Request};
use super::headers::{Upward, request_id, write_request};
use super::presence::{Gone, Presence};
use super::record::Record;
use super::retry::{is_idempotent, may_send_again};
use super::transport::{BackendStream, ClientInfo, Protocol, Wire};
use super::tunnel::{Granted, Tunnel};
use super::{After, Conversation, Door, Lane, cookie, exchange, lock, route};
use crate::backend::connect::connect;
use crate::l4::choose::{Chosen, Refusal, next_backend};
use crate::l4::secure::begin;
use crate::l4::sessions::{Open, Why};
use crate::l4::{opening_for, source};
use crate::log::{By, End};
use crate::plan::{ClientIp, Service};
use crate::relay::Peer;
use crate::schedule::member_key;
use crate::service::{Place, is_admitted};
use crate::snapshot::Snapshot;
use crate::socket::FirstBytes;

/// How a request came out.
enum Outcome {
    /// The backend has answered.
    Answered(Finished),
    /// Another protocol is spoken from here on.
    Upgraded(Box<Granted>),
    /// The balancer answers itself.
    Refused(Answer, End),
    /// There is nobody to answer, or the answer broke off.
    Broken(End),
}

pub(super) const fn end(by: By, word: &'static str, code: &'static str) -> End {
    End { by, word, code }
}

const ANSWERED: End = end(By::Backend, "answered", "--");
const LEFT_QUEUE: Outcome = Outcome::Broken(end(By::Client, "client-gone", "CQ"));
const LEFT_CONNECT: Outcome = Outcome::Broken(end(By::Client, "client-gone", "CC"));

impl<C: Peer + Send> Conversation<C> {
    /// Serves the request whose head of this length stands at the start of what was read.
    pub(super) async fn answer(&mut self, snapshot: &Snapshot, length: usize, limits: Limits) -> After {
        self.wire.input.split(length, &mut self.head);
        self.begun = None;
        self.count = self.count.saturating_add(1);
        let fields = std::mem::take(&mut self.fields[0]);
        let request = match Request::read(&self.head, &limits, fields) {
            Ok(request) => request,
            Err(violation) => {
                tracing::debug!(client = %self.info.client, %violation, "Refused a request");
                return self.refuse_unread(violation.status()).await;
            }
        };
        let rules = &snapshot.service.http;
        let origin = Origin::of(&self.info, &rules.trusted_proxies, &request, &self.head);
        let mut record = Record::new(Instant::now(), origin.client, &self.door.own);
        if request_id(&request, &self.head).is_none() {
            self.ids.advance();
        }
        let is_repeatable = is_idempotent(request.method.of(&self.head));
        let mut upload = Upload::new(request.length, &limits, is_repeatable);
        let outcome = self
            .dispatch(snapshot, &request, origin, &limits, &mut upload, &mut record)
            .await;
        record.bytes_in = upload.bytes;
        let outcome = match outcome {
            Outcome::Upgraded(granted) => {
                self.count(&record, record.begun.elapsed(), ANSWERED);
                return After::Tunnel(Box::new(Tunnel {
                    granted: *granted,
                    request,
                    record,
                }));
            }
            outcome => outcome,
        };
        let (after, end) = self
            .conclude(outcome, &request, &upload.body, &mut record, rules.body_timeout)
            .await;
        self.log(&record, &request, end);
        self.fields[0] = request.fields;
        self.quiet_since = Instant::now();
        after
    }

    /// Admits the request, finds its backends, and sends it to one of them after the other until one answers.
    async fn dispatch(
        &mut self,
        snapshot: &Snapshot,
        request: &Request,
        origin: Origin,
        limits: &Limits,
        upload: &mut Upload,
        record: &mut Record,
    ) -> Outcome {
        let door = Arc::clone(&self.door);
        let front = &snapshot.service;
        let place = match admit(&door, front, origin.client) {
            Ok(place) => place,
            Err(refused) => return refused,
        };
        if let Some(route) = route::find(
            &front.http.routes,
            request.host.text(&self.head),
            request.path.text(&self.head),
        ) {
            match door.lane(&route.group) {
                Some(lane) => record.lane = lane,
                None => return no_backend(Refusal::Nobody),
            }
        }
        let lane = Arc::clone(&record.lane);
        let mut presence = Presence::new(self.info.protocol == Protocol::Http1, request.is_1_1);
        let begun = Instant::now();
        let entered = self.enter(front, &lane, &mut presence).await;
        record.queue += begun.elapsed();
        let group_place = match entered {
            Ok(place) => place,
            Err(refused) => return refused,
        };
        let mut tried = Vec::new();
        let mut is_first = true;
        loop {
            let backends = lane.service.live.load();
            let wish = front
                .http
                .cookie
                .as_ref()
                .and_then(|name| cookie::read(request, &self.head, name));
            let begun = Instant::now();
            let choosing = choose(&lane, &backends, origin.client.ip(), wish, &tried);
            let chosen = presence.during(&mut self.wire, &mut self.alarm, choosing).await;
            record.queue += begun.elapsed();
            let chosen = match chosen {
                Ok(Ok(chosen)) => chosen,
                Ok(Err(refusal)) => break no_backend(refusal),
                Err(Gone) => break LEFT_QUEUE,
            };
            let state = Arc::clone(chosen.pick.state());
            record.backend = Some(state.address);
            // After one vain attempt no connection is trusted that may have met the same fate.
            let linking = link(
                &lane,
                &backends,
                &self.info,
                &chosen,
                is_first,
                upload.is_repeatable,
                record,
            );
            let link = match presence.during(&mut self.wire, &mut self.alarm, linking).await {
                Err(Gone) => break LEFT_CONNECT,
                Ok(link) => link,
            };
            let link = match link {
                Ok(link) => link,
                Err(()) if tried.len() >= backends.service.retries => break no_backend(Refusal::Nobody),
                Err(()) => {
                    state.redispatched.add(1);
                    record.retries += 1;
                    tried.push(state.address);
                    continue;
                }
            };
            let begun = Instant::now();
            let set_cookie = front.http.cookie.as_ref().filter(|_| wish != Some(chosen.key));
            let set_cookie = set_cookie.map(|name| cookie::write(name, chosen.key, self.info.tls.is_some()));
            let (result, mut backend, open) = self
                .exchange(
                    request,
                    origin,
                    limits,
                    &lane,
                    front,
                    chosen,
                    link.stream,
                    set_cookie,
                    upload,
                    &mut presence,
                    record,
                )
                .await;
            state.requests.add(record.told.status, begun.elapsed());
            match result {
                Ok(finished) if finished.is_tunnel => {
                    let timeouts = backends.service.timeouts;
                    break Outcome::Upgraded(Box::new(Granted {
                        backend,
                        open,
                        idle: timeouts.idle,
                        half_close: timeouts.half_close,
                        places: (place, group_place),
                    }));
                }
                Ok(finished) => {
                    if finished.is_reusable && link.may_be_shared {
                        lock(&lane.pool).put(&backends.service, state.address, backend.stream);
                    }
                    break Outcome::Answered(finished);
                }
                Err(fault) => {
                    let is_backends = !matches!(fault, Fault::ClientGone | Fault::ClientSlow | Fault::BadBody(_));
                    if is_backends && !link.was_used {
                        state.aborted.add(1);
                    }
                    // Nobody there shall go on with what nobody waits for.
                    if let Some(socket) = backend.stream.socket() {
                        crate::socket::reset_on_close(socket);
                    }
                    backend.rest();
                    let is_worth_it = record.retries < u32::try_from(backends.service.retries).unwrap_or(u32::MAX);
                    if !(is_worth_it && may_send_again(fault, &record.told, upload)) {
                        break broken(fault, &record.told, &open);
                    }
                    if !link.was_used {
                        tried.push(state.address);
                    }
                    is_first = false;
                    record.retries += 1;
                    lane.service.counters.requests.retried.add(1);
                }
            }
        }
    }

    /// Takes up one of the places of a group, as soon as there is one.
    async fn enter(&mut self, front: &Service, lane: &Lane, presence: &mut Presence) -> Result<Option<Place>, Outcome> {
        if lane.service.name == front.name {
            return Ok(None);
        }
        let entering = lane.service.enter();
        match presence.during(&mut self.wire, &mut self.alarm, entering).await {
            Ok(Some(place)) => Ok(Some(place)),
            Ok(None) => Err(no_backend(Refusal::QueueTimeout)),
            Err(Gone) => Err(LEFT_QUEUE),
        }
    }

    /// Sends the request over one connection and brings back the answer.
    #[expect(clippy::too_many_arguments, reason = "everything an attempt depends on")]
    async fn exchange(
        &mut self,
        request: &Request,
        origin: Origin,
        limits: &Limits,
        lane: &Lane,
        front: &Service,
        chosen: Chosen,
        stream: BackendStream,
        cookie: Option<String>,
        upload: &mut Upload,
        presence: &mut Presence,
        record: &mut Record,
    ) -> (Result<Finished, Fault>, Wire<BackendStream>, Open) {
        let state = Arc::clone(chosen.pick.state());
        let mut backend = Wire::new(stream);
        let out = &mut backend.output.bytes;
        if let BackendStream::Plain(_) = backend.stream {
            // One that is encrypted has it already.
            let info = &self.info;
            opening_for(chosen.client_ip, info.client, info.local, info.tls.as_deref(), out);
        }
        let upward = Upward {
            info: &self.info,
            is_trusted: origin.is_trusted,
            request_id: &self.ids.text,
            backend: state.address,
        };
        write_request(out, request, &self.head, &upward);
        out.extend_from_slice(upload.replay.as_deref().unwrap_or_default());
        let terms = exchange::Terms {
            limits: *limits,
            body: front.http.body_timeout,
            response: front.http.response_timeout,
        };
        let wanted = Wanted {
            asked: request.asked(&self.head),
            is_1_1: request.is_1_1,
            keeps: keeps(request) && !self.door.closed.is_cancelled(),
            expects_continue: request.expects_continue,
            cookie,
        };
        let open = self
            .door
            .sessions
            .open(&lane.service, record.client, record.begun, chosen.pick);
        let fields = std::mem::take(&mut self.fields[1]);
        let mut exchange = Exchange::new(
            &mut self.wire,
            &mut backend,
            upload,
            &mut self.alarm,
            presence,
            &terms,
            wanted,
            &open,
            fields,
        );
        let result = std::future::poll_fn(|cx| exchange.poll(cx)).await;
        (record.told, self.fields[1]) = exchange.into_told();
        (result, backend, open)
    }

    /// Tells the client what it has not been told yet; what follows, and how it ended.
    async fn conclude(
        &mut self,
        outcome: Outcome,
        request: &Request,
        body: &Body,
        record: &mut Record,
        patience: Duration,
    ) -> (After, End) {
        match outcome {
            Outcome::Answered(finished) if finished.keeps => (After::Next, ANSWERED),
            Outcome::Answered(_) | Outcome::Upgraded(_) => (After::Part, ANSWERED),
            Outcome::Broken(end) => (After::Reset, end),
            Outcome::Refused(answer, end) => {
                let accept = request.field(Known::Accept).map(|it| it.of(&self.head));
                let to = To {
                    accept: accept.unwrap_or_default(),
                    is_head: request.asked(&self.head).is_head,
                    is_1_1: request.is_1_1,
                    keeps: keeps(request) && body.is_done() && answer.status != 400 && answer.status != 408,
                    request_id: request_id(request, &self.head).unwrap_or(&self.ids.text),
                };
                record.told.status = answer.status;
                answer.write(&mut self.wire.output.bytes, &to);
                let after = if to.keeps { After::Next } else { After::Part };
                (self.flush(patience).await.unwrap_or(after), end)
            }
        }
    }

    /// Answers a request that could not be read.
    pub(super) async fn refuse_unread(&mut self, status: u16) -> After {
        let says = match status {
            408 => "The request did not arrive in time.",
            414 => "The address of the request is too long.",
            417 => "The expectation cannot be met.",
            431 => "The header of the request is too large.",
            505 => "This version of HTTP is not spoken here.",
            _ => "The request is not valid HTTP, or can be read in more than one way.",
        };
        let to = To {
            accept: b"",
            is_head: false,
            is_1_1: true,
            keeps: false,
            request_id: self.ids.advance(),
        };
        Answer::new(status, says).write(&mut self.wire.output.bytes, &to);
        let begun = self.begun.unwrap_or(self.quiet_since);
        let mut record = Record::new(begun, self.info.client, &self.door.own);
        record.told.status = status;
        self.head.clear();
        let unread = Request::default();
        let word = if status == 408 { "slow-request" } else { "bad-request" };
        self.log(
            &record,
            &unread,
            end(By::Client, word, if status == 408 { "cR" } else { "PR" }),
        );
        self.flush(Duration::from_secs(5)).await.unwrap_or(After::Part)
    }

    /// Writes what the client is still to be told; what follows if that cannot be done.
    async fn flush(&mut self, patience: Duration) -> Option<After> {
        let flushing = std::future::poll_fn(|cx| self.wire.poll_flush(cx));
        match tokio::time::timeout(patience, flushing).await {
            Ok(Ok(())) => None,
            Ok(Err(_)) | Err(_) => Some(After::Reset),
        }
    }
}

/// True if the client would like to ask more on its connection.
fn keeps(request: &Request) -> bool {
    match request.is_1_1 {
        true => !request.options.close,
        false => request.options.keep_alive && !request.options.close,
    }
}

/// Lets a client's request in, or says why not.
fn admit(door: &Door, front: &Service, client: SocketAddr) -> Result<Option<crate::service::ClientPlace>, Outcome> {
    let counters = &door.service().counters;
    if !is_admitted(front, client) {
        counters.denied.add(1);
        let answer = Answer::new(403, "This address is not allowed here.");
        return Err(Outcome::Refused(answer, end(By::Balancer, "denied", "PR")));
    }
    let place = match front.http.client_maxconn {
        Some(most) => door.service().admit_client(client.ip(), most).map(Some),
        None => Some(None),
    };
    let is_within_rate = front.rate.is_none() || door.service().is_within_rate(client.ip(), Instant::now());
    match place.filter(|_| is_within_rate) {
        Some(place) => Ok(place),
        None => {
            counters.rate_limited.add(1);
            counters.requests.limited.add(1);
            let answer = Answer::later(429, "Too many requests from this address.");
            Err(Outcome::Refused(answer, end(By::Balancer, "rate-limited", "PR")))
        }
    }
}

/// The backend that the client's cookie says, if it can be had; else the next one.
async fn choose(
    lane: &Lane,
    backends: &Snapshot,
    client: IpAddr,
    wish: Option<u64>,
    tried: &[SocketAddr],
) -> Result<Chosen, Refusal> {
    let wished = wish.and_then(|key| {
        let mut candidates = backends.candidates();
        candidates.find(|it| member_key(it.state.address) == key && !tried.contains(&it.state.address))
    });
    if let Some(chosen) = wished.and_then(Chosen::try_new) {
        return Ok(chosen);
    }
    next_backend(&lane.service, &lane.chooser, backends, client, tried).await
}

/// A connection to the chosen backend.
struct Link {
    stream: BackendStream,
    /// It has carried a request before.
    was_used: bool,
    /// It may carry those of other clients.
    may_be_shared: bool,
}

async fn link(
    lane: &Lane,
    backends: &Snapshot,
    info: &ClientInfo,
    chosen: &Chosen,
    may_be_used: bool,
    is_repeatable: bool,
    record: &mut Record,
) -> Result<Link, ()> {
    let (state, policy) = (chosen.pick.state(), &backends.service);
    // A connection that tells the backend of one client is not for another.
    let may_be_shared = chosen.client_ip == ClientIp::None;
    if may_be_used && may_be_shared {
        let kept = lock(&lane.pool).take(policy, state.address, !is_repeatable);
        if let Some(stream) = kept {
            return Ok(Link {
                stream,
                was_used: true,
                may_be_shared,
            });
        }
    }
    let begun = Instant::now();
    let limit = policy.timeouts.connect;
    let source = source(chosen.client_ip, record.client);
    let connecting = async {
        let stream = connect(state.address, source, FirstBytes::Here, limit).await?;
        let Some(connector) = &backends.tls.client else {
            return Ok(BackendStream::Plain(stream));
        };
        let mut header = Vec::new();
        opening_for(
            chosen.client_ip,
            info.client,
            info.local,
            info.tls.as_deref(),
            &mut header,
        );
        let stream = begin(connector, chosen, stream, &header, limit).await?;
        Ok(BackendStream::Tls(Box::new(stream.into())))
    };
    let result = connecting.await;
    record.connect += begun.elapsed();
    match result {
        Ok(stream) => {
            state.connected(begun.elapsed());
            Ok(Link {
                stream,
                was_used: false,
                may_be_shared,
            })
        }
        Err(error) => {
            lane.service.connect_failed(state, &error);
            Err(())
        }
    }
}

fn no_backend(refusal: Refusal) -> Outcome {
    let (word, code) = match refusal {
        Refusal::Nobody => ("no-backend", "SC"),
        Refusal::QueueFull => ("queue-full", "sQ"),
        Refusal::QueueTimeout => ("queue-timeout", "sQ"),
    };
    let answer = Answer::later(503, "No server can take this request now.");
    Outcome::Refused(answer, end(By::Balancer, word, code))
}

/// What an attempt that failed for good means for the client.
fn broken(fault: Fault, told: &Told, open: &Open) -> Outcome {
    const NO_ANSWER: Answer = Answer::new(502, "The server did not answer. It may have received the request.");
    let end = match fault {
        Fault::Unsent | Fault::NoAnswer => end(By::Backend, "no-answer", "SH"),
        Fault::BadAnswer(violation) => {
            tracing::warn!(backend = %open.session().backend().address, %violation, "Refused an answer");
            end(By::Backend, "bad-answer", "PH")
        }
        Fault::Silent => end(By::Backend, "answer-timeout", "sH"),
        Fault::CutShort => end(By::Backend, "cut-short", "SD"),
        Fault::ClientGone => end(By::Client, "client-gone", "CD"),
        Fault::ClientSlow => end(By::Client, "client-slow", "cD"),
        Fault::BadBody(_) => end(By::Client, "bad-request", "PR"),
        Fault::Killed => match open.session().ended() {
            Some(Why::Operator) => end(By::Operator, "killed", "KD"),
            Some(Why::BackendDown) => end(By::Balancer, "backend-down", "DD"),
            Some(Why::Drained) => end(By::Balancer, "drain-timeout", "KD"),
            Some(Why::Shutdown) | None => end(By::Balancer, "shutdown", "KD"),
        },
    };
    if told.status != 0 {
        return Outcome::Broken(end);
    }
    let answer = match fault {
        Fault::ClientGone => return Outcome::Broken(end),
        Fault::Silent => Answer::new(504, "The server did not answer in time."),
        Fault::ClientSlow => Answer::new(408, "The request did not arrive in time."),
        Fault::BadBody(_) => Answer::new(
            400,
            "The request is not valid HTTP, or can be read in more than one way.",
        ),
        _ => NO_ANSWER,
    };
    Outcome::Refused(answer, end)
}
