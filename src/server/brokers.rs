//! The composition of the broker: which one, with what settings, and its ends at the loops.
//!
//! Owns: what it is made from, and when it starts and stops.
//! Never: runs a command.

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt as _;

use super::{StartError, Substitutes, failed};
use crate::broker::nats::{Nats, NatsOptions};
use crate::broker::redis::{Address, Redis, RedisOptions, Tls};
use crate::broker::{self, Engine, Link, NodeId, Nodes, Options, Queues, Routes, Times};
use crate::config::{BrokerType, Config};
use crate::event_loop::Delivery;
use crate::event_loop::plain::FleetSettings;
use crate::ids::{Homes, LoopId};
use crate::mailbox::Postbox;

/// A broker that cannot be reached for so long ends the start.
const REACHED_WITHIN: Duration = Duration::from_secs(5);

/// What stands around a peer's message on its way to another node: names, and for section 9 the namespaces.
const MESSAGE_HEAD_BYTES: usize = 16 * 1024;

/// A broker before its threads run.
pub(super) struct Prepared {
    /// For each loop its end.
    pub(super) links: Vec<Link>,
    /// The nodes share one state.
    pub(super) cluster_state: bool,
    /// This node.
    node: NodeId,
    /// None: a test is the broker.
    threads: Option<Threads>,
}

/// What the threads are made of.
struct Threads {
    engine: Arc<dyn Engine>,
    /// What and where it is, for the log.
    place: String,
    nodes: Arc<Nodes>,
    queues: Queues,
    routes: Routes,
}

/// A broker at work.
pub(super) struct Broker {
    running: broker::Running,
}

/// What is wrong with the broker's settings, each beginning with the key: what only the broker's own parts can judge.
pub(super) fn check(config: &Config) -> Vec<String> {
    let mut faults = Vec::new();
    if config.broker_type == BrokerType::Redis
        && let Err(error) = Address::parse(&config.redis_addr)
    {
        faults.push(format!("redis_addr: {error}"));
    }
    faults
}

/// Makes what must be there before the loops have descriptor tables of their own; None: this node is alone.
///
/// # Errors
/// Settings that cannot be used.
pub(super) fn prepare(
    config: &Config,
    homes: &Homes,
    postbox: &Arc<Postbox<Delivery>>,
    substitutes: &mut Substitutes,
) -> Result<Option<Prepared>, StartError> {
    let node = NodeId::from_bytes(rand::rng().random());
    let homes = &match config.cluster_state {
        true => homes.clone().in_cluster(),
        false => homes.clone(),
    };
    if let Some(be_broker) = substitutes.broker.take() {
        let (links, queues, routes) = connect(config, homes, postbox);
        be_broker(queues, routes);
        return Ok(Some(Prepared {
            links,
            cluster_state: config.cluster_state,
            node,
            threads: None,
        }));
    }
    let nodes = Arc::new(Nodes::new(node));
    let cluster_state = config.cluster_state;
    let (engine, place): (Arc<dyn Engine>, _) = match config.broker_type {
        BrokerType::Local => return Ok(None),
        BrokerType::Redis => {
            let options = redis_options(config)?;
            let place = format!("redis at {}", options.address);
            (Arc::new(Redis::new(options, nodes.clone(), cluster_state)), place)
        }
        BrokerType::Nats => {
            let options = nats_options(config);
            let nats = Nats::new(&options, nodes.clone()).map_err(|error| StartError(error.to_string()))?;
            (Arc::new(nats), "nats".to_owned())
        }
    };
    let (mut links, queues, routes) = connect(config, homes, postbox);
    links.iter_mut().for_each(|link| link.know(nodes.clone()));
    let threads = Threads {
        engine,
        place,
        nodes,
        queues,
        routes,
    };
    Ok(Some(Prepared {
        links,
        cluster_state,
        node,
        threads: Some(threads),
    }))
}

fn connect(config: &Config, homes: &Homes, postbox: &Arc<Postbox<Delivery>>) -> (Vec<Link>, Queues, Routes) {
    let wakes = (0..homes.loops()).map(|index| wake(postbox.clone(), LoopId::new(index as u16)));
    broker::connect(homes, wakes.collect(), config.mail_bytes)
}

fn redis_options(config: &Config) -> Result<RedisOptions, StartError> {
    let address = Address::parse(&config.redis_addr).map_err(|error| StartError(format!("redis_addr: {error}")))?;
    let given = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    let ca = config.redis_ca.as_ref().map(std::fs::read);
    let ca = ca.transpose().map_err(|error| failed("redis_ca", &error))?;
    Ok(RedisOptions {
        user: given(&config.redis_user),
        password: given(&config.redis_password),
        db: config.redis_db,
        tls: config.redis_tls.then_some(Tls { ca }),
        list_bytes: config.list_bytes_max,
        ..RedisOptions::new(address)
    })
}

fn nats_options(config: &Config) -> NatsOptions {
    NatsOptions {
        url: config.nats_url.clone(),
        user: config.nats_user.clone(),
        password: config.nats_password.clone(),
        token: config.nats_token.clone(),
        creds: config.nats_creds.clone(),
        ca: config.nats_ca.clone(),
        own_channel: config.cluster_state,
        snapshot_after: 0,
        // What one message between nodes holds of many, one message of a peer on top, and what stands around it.
        message_bytes: broker::MESSAGE_BYTES_MAX + config.max_message_size + MESSAGE_HEAD_BYTES,
    }
}

impl Prepared {
    /// How the loops speak with nodes that share no state with this one.
    pub(super) fn fleet(&self, config: &Config) -> FleetSettings {
        FleetSettings {
            node_id: self.node,
            cluster_state: self.cluster_state,
            broker: match config.broker_type {
                BrokerType::Local => "local",
                BrokerType::Redis => "redis",
                BrokerType::Nats => "nats",
            },
            gates_ready: config.ready_requires_broker,
            acks: config.broker_ack,
        }
    }

    /// Starts the threads, if there are any, when all loops have their descriptor tables: see `tables`.
    ///
    /// # Errors
    /// A thread cannot be started, or the broker cannot be reached.
    pub(super) fn open(self) -> Result<Option<Broker>, StartError> {
        let Some(threads) = self.threads else { return Ok(None) };
        let options = Options {
            cluster_state: self.cluster_state,
            times: Times::default(),
        };
        let node = threads.nodes.own();
        let running = broker::start(threads.engine, options, threads.nodes, threads.queues, threads.routes);
        let broker = Broker {
            running: running.map_err(|error| failed("thread", &error))?,
        };
        if let Err(reason) = broker.running.wait_up(REACHED_WITHIN) {
            broker.stop();
            return Err(StartError(format!("{}: cannot be reached: {reason}", threads.place)));
        }
        tracing::info!(%node, broker = threads.place, cluster_state = self.cluster_state, "one of several nodes");
        Ok(Some(broker))
    }
}

impl Broker {
    /// Gives the lease back and ends the threads. For after the loops have ended.
    pub(super) fn stop(self) {
        self.running.stop();
    }
}

/// What wakes a loop for the broker's threads.
fn wake(postbox: Arc<Postbox<Delivery>>, loop_id: LoopId) -> broker::Wake {
    Arc::new(move || postbox.wake(loop_id))
}
