//! Whether what happened is what a scenario expects: its assertions, held against the log.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::log::Event;
use super::scenario::Assertion;

/// An event matches if every field that is given here is equal.
#[derive(Debug, Deserialize)]
pub(super) struct Pattern(Map<String, Value>);

impl Pattern {
    fn matches(&self, event: &Event) -> bool {
        self.0.iter().all(|(key, wanted)| match &**key {
            "from_t" => event.seconds() >= number(wanted) - 1e-9,
            "to_t" => event.seconds() <= number(wanted) + 1e-9,
            _ => {
                let seen = event.field(key);
                match wanted {
                    Value::Array(several) => several.contains(seen),
                    Value::Object(entries) => entries
                        .iter()
                        .all(|(key, wanted)| seen.get(key) == Some(wanted)),
                    one => one == seen,
                }
            }
        })
    }

    fn of<'a>(&self, log: &'a [Event]) -> Vec<&'a Event> {
        log.iter().filter(|event| self.matches(event)).collect()
    }
}

fn number(value: &Value) -> f64 {
    value.as_f64().expect("a time is a number")
}

/// What is wrong, if the assertion does not hold. `alive` are the nodes that still handle messages.
pub(super) fn judge(
    assertion: &Assertion,
    log: &[Event],
    alive: &dyn Fn(&str) -> bool,
) -> Result<(), String> {
    match assertion {
        Assertion::StateAt {
            t,
            node,
            peer,
            is,
            via,
        } => {
            let last = log.iter().rfind(|event| {
                event.is("state")
                    && event.seconds() <= t + 1e-9
                    && event.field("node") == node
                    && event.field("peer") == peer
            });
            let null = Value::Null;
            let (state, over) = last.map_or((&null, &null), |event| {
                (event.field("new"), event.field("via"))
            });
            let right = match is {
                Value::Array(several) => several.contains(state),
                one => one == state,
            };
            let right = right && via.as_ref().is_none_or(|via| via == over);
            check(right, || format!("state {state} via {over}"))
        }
        Assertion::Never(pattern) => {
            let seen = pattern.of(log);
            check(seen.is_empty(), || format!("seen: {seen:?}"))
        }
        Assertion::Count {
            of,
            exactly,
            min,
            max,
        } => {
            let count = of.of(log).len();
            let right = exactly.is_none_or(|exactly| count == exactly)
                && min.is_none_or(|min| count >= min)
                && max.is_none_or(|max| count <= max);
            check(right, || format!("{count} times"))
        }
        Assertion::Times { of, at, tol } => {
            let seen: Vec<f64> = of.of(log).iter().map(|event| event.seconds()).collect();
            let near = |(seen, at): (&f64, &f64)| (seen - at).abs() <= tol.unwrap_or(0.25) + 1e-9;
            let right = seen.len() == at.len() && seen.iter().zip(at).all(near);
            check(right, || format!("at {seen:?}"))
        }
        Assertion::MaxGap { of, secs } => {
            let seen = of.of(log);
            let gap = |pair: &[&Event]| pair[1].seconds() - pair[0].seconds();
            let longest = seen.windows(2).map(gap).fold(0.0, f64::max);
            check(longest <= secs + 1e-9, || format!("a gap of {longest} s"))
        }
        Assertion::Sequence { events } => {
            let mut wanted = events.iter().peekable();
            for event in log {
                if wanted.peek().is_some_and(|pattern| pattern.matches(event)) {
                    wanted.next();
                }
            }
            let left = wanted.len();
            check(left == 0, || {
                format!("stopped before item {}", events.len() - left)
            })
        }
        Assertion::Values {
            of,
            field,
            any_order,
            are,
        } => {
            let mut seen: Vec<Value> = of
                .of(log)
                .iter()
                .map(|event| event.path(field).clone())
                .collect();
            let mut are = are.clone();
            if *any_order {
                seen.sort_by_key(Value::to_string);
                are.sort_by_key(Value::to_string);
            }
            check(seen == are, || format!("{seen:?}"))
        }
        Assertion::PerStep { of, are } => {
            let mut seen: Vec<usize> = Vec::new();
            let mut last = None;
            for event in of.of(log) {
                if last.replace(event.at()) == Some(event.at()) {
                    *seen.last_mut().expect("there was one before") += 1;
                } else {
                    seen.push(1);
                }
            }
            check(&seen == are, || format!("{seen:?}"))
        }
        Assertion::Alive { node } => check(alive(node), || "it handles nothing".into()),
    }
}

fn check(right: bool, saw: impl FnOnce() -> String) -> Result<(), String> {
    if right { Ok(()) } else { Err(saw()) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn log() -> Vec<Event> {
        let event = |at, fields| Event::new(at, fields);
        vec![
            event(
                0,
                json!({"ev": "state", "node": "A", "peer": "B", "new": "CONNECTED", "via": null}),
            ),
            event(
                100,
                json!({"ev": "send", "node": "A", "payload": {"n": 1, "m": 2}}),
            ),
            event(100, json!({"ev": "send", "node": "B", "payload": {"n": 0}})),
            event(
                1500,
                json!({"ev": "send", "node": "A", "payload": {"n": 2}}),
            ),
            event(
                1600,
                json!({"ev": "state", "node": "A", "peer": "B", "new": "ROUTED", "via": "C"}),
            ),
        ]
    }

    #[test]
    fn every_assertion_can_hold_and_can_fail() {
        let send = json!({"ev": "send", "node": "A"});
        for (holds, assertion) in [
            (
                true,
                json!({"state_at": {"t": 1, "node": "A", "peer": "B", "is": "CONNECTED"}}),
            ),
            (
                false,
                json!({"state_at": {"t": 1, "node": "A", "peer": "B", "is": "ROUTED"}}),
            ),
            (
                true,
                json!({"state_at": {"t": 2, "node": "A", "peer": "B", "is": ["ROUTED"], "via": "C"}}),
            ),
            (
                false,
                json!({"state_at": {"t": 2, "node": "A", "peer": "B", "is": "ROUTED", "via": "D"}}),
            ),
            (
                false,
                json!({"state_at": {"t": 2, "node": "A", "peer": "C", "is": "ROUTED"}}),
            ),
            (true, json!({"never": {"ev": "send", "node": "C"}})),
            (false, json!({"never": {"ev": "send", "payload": {"n": 1}}})),
            (true, json!({"never": {"ev": "send", "payload": {"n": 3}}})),
            (true, json!({"never": {"ev": "send", "from_t": 1.6}})),
            (
                false,
                json!({"never": {"ev": ["send"], "from_t": 1.5, "to_t": 1.5}}),
            ),
            (true, json!({"count": {"of": send, "exactly": 2}})),
            (false, json!({"count": {"of": send, "exactly": 1}})),
            (false, json!({"count": {"of": send, "min": 3}})),
            (false, json!({"count": {"of": send, "max": 1}})),
            (true, json!({"times": {"of": send, "at": [0.3, 1.5]}})),
            (false, json!({"times": {"of": send, "at": [0.1]}})),
            (false, json!({"times": {"of": send, "at": [0.1, 1.1]}})),
            (true, json!({"max_gap": {"of": send, "secs": 1.4}})),
            (false, json!({"max_gap": {"of": send, "secs": 1.3}})),
            (
                true,
                json!({"sequence": {"events": [{"ev": "send"}, {"ev": "state"}]}}),
            ),
            (
                false,
                json!({"sequence": {"events": [{"ev": "send", "payload": {"n": 2}}, {"ev": "send"}]}}),
            ),
            (
                true,
                json!({"values": {"of": {"ev": "send"}, "field": "payload.n", "are": [1, 0, 2]}}),
            ),
            (
                false,
                json!({"values": {"of": {"ev": "send"}, "field": "payload.n", "are": [0, 1, 2]}}),
            ),
            (
                true,
                json!({"values": {"of": {"ev": "send"}, "field": "payload.n", "any_order": true, "are": [0, 1, 2]}}),
            ),
            (
                true,
                json!({"per_step": {"of": {"ev": "send"}, "are": [2, 1]}}),
            ),
            (
                false,
                json!({"per_step": {"of": {"ev": "send"}, "are": [3]}}),
            ),
            (true, json!({"alive": {"node": "A"}})),
            (false, json!({"alive": {"node": "B"}})),
        ] {
            let read: Assertion = serde_json::from_value(assertion.clone()).unwrap();
            let verdict = judge(&read, &log(), &|node| node == "A");
            assert_eq!(verdict.is_ok(), holds, "{assertion}: {verdict:?}");
        }
    }
}
