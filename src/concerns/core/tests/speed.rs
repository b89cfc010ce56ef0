//! What a message costs in the core alone; to be looked at, not judged.

use super::*;

/// Two cores that are joined without anything between them.
fn play(messages: u64, priority: Priority, waited_for: bool) -> Duration {
    let mut ends = ["A", "B"].map(|name| {
        let settings = Settings {
            identity: identity(name),
            ..settings()
        };
        let mut concerns = built_ins();
        concerns.push(Box::new(Quiet));
        let mut rig = Rig::new(settings, concerns);
        let peer = if name == "A" { "B" } else { "A" };
        rig.link_up(peer, 1, (name == "A").then_some(1));
        rig.know(peer, None);
        rig
    });
    let now = ends[0].now;
    let (mut sent, mut done, mut replies) = (0, 0, 0);
    let mut inputs = [Vec::new(), Vec::new()];
    let began = Instant::now();
    while done < messages || (waited_for && replies < messages) {
        while sent < messages && sent < done + 1_000 {
            sent += 1;
            let id = 2 * sent + 1 + if waited_for { ASKED } else { 0 };
            let message = message("B").priority(priority);
            inputs[0].push(Input::Send { id, message });
        }
        for side in 0..2 {
            let core = &mut ends[side].core;
            let mut written = 0;
            let mut next = Vec::new();
            let mut take = |core: &mut Core, input| {
                for output in core.step(now, input) {
                    match output {
                        Output::Write { envelope, .. } => {
                            written += 1;
                            next.push(Input::Frame {
                                link: LinkId(1),
                                envelope,
                            });
                        }
                        Output::Settled { .. } => done += 1,
                        Output::Reply { .. } => replies += 1,
                        _ => {}
                    }
                }
            };
            for input in inputs[side].drain(..) {
                take(core, input);
            }
            while core.due().is_some_and(|due| due <= now) {
                take(core, Input::Round);
            }
            if written > 0 {
                let (link, count, expired) = (LinkId(1), written, Vec::new());
                inputs[side].push(Input::Written {
                    link,
                    count,
                    expired,
                });
            }
            inputs[1 - side].append(&mut next);
        }
    }
    began.elapsed()
}

struct Quiet;

impl Concern for Quiet {
    fn command(&self) -> Command {
        "echo".try_into().unwrap()
    }

    fn request(
        &mut self,
        _: &mut Context<'_>,
        message: &Message,
    ) -> Result<Option<Answer>, BoxError> {
        if message.id() & ASKED == 0 {
            return Ok(None);
        }
        Ok(Some(Answer::new(&json!({}))?))
    }
}

#[test]
#[ignore = "it measures; run it with --release and --nocapture"]
fn messages_a_second() {
    let count = 200_000;
    for waited_for in [false, true] {
        for priority in [Priority::Fast, Priority::Medium] {
            let took = play(count, priority, waited_for);
            let each = took.as_nanos() as f64 / count as f64;
            println!(
                "{priority:?}, waited for: {waited_for}: {each:.0} ns a message, through two cores"
            );
        }
    }
}
