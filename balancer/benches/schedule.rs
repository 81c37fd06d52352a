//! What one pick costs, with ten and with a thousand backends whose counters lie where real ones do: each in an
//! allocation and a cache line of its own. Figures are CPU time of the thread: neighbours on the machine do not count.

use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use openhim_balancer::plan::Schedule;
use openhim_balancer::schedule::{Member, Table, Turn, client_key, member_key};
use rustix::time::{ClockId, clock_gettime};

#[repr(align(128))]
#[derive(Default)]
struct Counters {
    active: AtomicU32,
}

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        time.tv_sec.unsigned_abs(),
        u32::try_from(time.tv_nsec).unwrap_or_default(),
    )
}

fn picks(criterion: &mut Criterion) {
    for (name, schedule) in Schedule::NAMES {
        let mut group = criterion.benchmark_group(name);
        for count in [10_u32, 1000] {
            let address = |place: u32| SocketAddr::from((Ipv4Addr::from_bits(0x0a00_0000 + place), 5000));
            let members: Vec<Member> = (0..count)
                .map(|place| Member {
                    key: member_key(address(place)),
                    weight: 1 + place % 3,
                })
                .collect();
            let counters: Vec<Arc<Counters>> = (0..count).map(|_| Arc::default()).collect();
            let table = Table::new(schedule, &members);
            let mut turn = Turn::new(1);
            let mut live = std::collections::VecDeque::new();
            let mut client = 0_u32;
            group.bench_function(BenchmarkId::from_parameter(count), |bencher| {
                let mut pick = || {
                    client = client.wrapping_add(1);
                    let key = client_key(Ipv4Addr::from_bits(client).into());
                    let room = |index: usize| Some(counters[index].active.load(Ordering::Relaxed));
                    let picked = black_box(table.pick(&mut turn, key, room)).unwrap_or_default();
                    // Ten connections a backend, the oldest ending first.
                    counters[picked].active.fetch_add(1, Ordering::Relaxed);
                    live.push_back(picked);
                    if live.len() > 10 * count as usize
                        && let Some(gone) = live.pop_front()
                    {
                        counters[gone].active.fetch_sub(1, Ordering::Relaxed);
                    }
                };
                bencher.iter_custom(|rounds| {
                    let begun = cpu_time();
                    (0..rounds).for_each(|_| pick());
                    cpu_time() - begun
                });
            });
        }
        group.finish();
    }
}

criterion_group!(benches, picks);
criterion_main!(benches);
