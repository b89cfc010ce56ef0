//! The calls of the concerns: each is caught, its error told, and what it asked of the list of concerns
//! done after it.

use std::time::Instant;

use super::registry::Entry;
use super::{Core, State};
use crate::concerns::concern::Concern;
use crate::concerns::context::Context;
use crate::concerns::error::{BoxError, Error};
use crate::concerns::event::Event;
use crate::concerns::identity::Command;
use crate::lifecycle::catch;

impl State {
    /// When the concern that runs wants to be woken.
    pub(crate) fn wake(&mut self) -> &mut Option<Instant> {
        &mut self.wake
    }

    /// The concern that runs wants to be woken by changes.
    pub(crate) fn watch(&mut self) {
        self.watch = true;
    }

    /// As [`Context::add`].
    pub(crate) fn add(&mut self, concern: Box<dyn Concern>) -> Result<(), Error> {
        let command = command_of(&*concern)?;
        let mut added = self.added.iter();
        if self.commands.contains_key(&command) || added.any(|(other, _)| *other == command) {
            return Err(Error::CommandTaken { command });
        }
        self.added.push((command, concern));
        Ok(())
    }

    /// As [`Context::remove`].
    pub(crate) fn remove(&mut self, command: &Command) -> bool {
        if !self.commands.contains_key(command) || self.removed.contains(command) {
            return false;
        }
        self.removed.push(command.clone());
        true
    }
}

impl Core {
    /// Calls a hook of the concern at `place`. An error or a panic is told; then there is no result.
    pub(super) fn hook<R>(
        &mut self,
        place: usize,
        hook: &'static str,
        call: impl FnOnce(&mut dyn Concern, &mut Context<'_>) -> Result<R, BoxError>,
    ) -> Option<R> {
        match self.call(place, call) {
            Ok(result) => Some(result),
            Err(error) => {
                let command = self.registry.entries[place].command.clone();
                log::warn!("concern {command}, {hook}: {error}");
                self.state.event(Event::HookFailed {
                    command,
                    hook,
                    error: error.to_string(),
                });
                None
            }
        }
    }

    fn call<R>(
        &mut self,
        place: usize,
        call: impl FnOnce(&mut dyn Concern, &mut Context<'_>) -> Result<R, BoxError>,
    ) -> Result<R, BoxError> {
        let entry = &mut self.registry.entries[place];
        let mut context = Context::new(self.state.now, &mut self.state);
        let outcome = catch(|| call(&mut *entry.concern, &mut context));
        if let Some(wake) = self.state.wake.take() {
            entry.wake = Some(entry.wake.map_or(wake, |then| then.min(wake)));
        }
        entry.watches |= std::mem::take(&mut self.state.watch);
        outcome.unwrap_or_else(|panic| Err(panic.into()))
    }

    /// Adds a concern and starts it.
    pub(super) fn add(&mut self, concern: Box<dyn Concern>) -> Result<(), Error> {
        if self.state.stopped {
            return Err(Error::Stopped);
        }
        let command = command_of(&*concern)?;
        if self.state.commands.contains_key(&command) {
            return Err(Error::CommandTaken { command });
        }
        let place = self.registry.push(command.clone(), concern);
        self.state.commands.insert(command.clone(), place);
        let started = self.call(place, |concern, context| concern.start(context));
        started.map_err(|source| {
            self.take_out(place);
            Error::Concern { command, source }
        })
    }

    /// Stops a concern and takes it out.
    pub(super) fn remove(&mut self, command: &Command) -> Option<Box<dyn Concern>> {
        let place = *self.state.commands.get(command)?;
        self.stop_at(place);
        Some(self.take_out(place).concern)
    }

    fn stop_at(&mut self, place: usize) {
        self.hook(place, "stop", |concern, context| {
            concern.stop(context);
            Ok(())
        });
    }

    fn take_out(&mut self, place: usize) -> Entry {
        let entry = self.registry.entries.remove(place);
        self.state.commands.remove(&entry.command);
        for other in self.state.commands.values_mut() {
            *other -= usize::from(*other > place);
        }
        entry
    }

    /// Does what hooks asked of the list of concerns.
    pub(super) fn change_concerns(&mut self) {
        while !self.state.added.is_empty() || !self.state.removed.is_empty() {
            for command in std::mem::take(&mut self.state.removed) {
                let gone = self.remove(&command);
                if catch(|| drop(gone)).is_err() {
                    log::warn!("concern {command} panicked when it was dropped");
                }
            }
            for (command, concern) in std::mem::take(&mut self.state.added) {
                if let Err(error) = self.add(concern) {
                    log::warn!("concern {command}: {error}");
                    self.state.event(Event::HookFailed {
                        command,
                        hook: "start",
                        error: with_cause(&error),
                    });
                }
            }
        }
    }

    /// Ticks the concerns that are due, in order of registration; those who watch it also if something
    /// has changed.
    pub(super) fn tick(&mut self) {
        let now = self.state.now;
        let touched = std::mem::take(&mut self.state.touched);
        for place in 0..self.registry.entries.len() {
            let entry = &mut self.registry.entries[place];
            if entry.wake.is_some_and(|wake| wake <= now) || (touched && entry.watches) {
                entry.wake = None;
                self.hook(place, "tick", |concern, context| concern.tick(context));
            }
        }
        self.change_concerns();
    }

    /// Stops all concerns, in the order of registration, which is that of the original.
    pub(super) fn stop_concerns(&mut self) {
        for place in 0..self.registry.entries.len() {
            self.stop_at(place);
        }
        self.state.added.clear();
        self.state.removed.clear();
    }
}

/// The concern's command; user code, so it may panic.
fn command_of(concern: &dyn Concern) -> Result<Command, Error> {
    catch(|| concern.command()).map_err(|panic| Error::Concern {
        command: unnamed(),
        source: panic.into(),
    })
}

/// What a concern is called that could not say its command.
fn unnamed() -> Command {
    Command::built_in("?")
}

fn with_cause(error: &Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
