//! The codes that answers carry beside their HTTP status.
//!
//! The two sides have a table each, and the same number means different things
//! in them: 501 is "already connected" from a slave and "no token" from a
//! master. Names follow DI-engine's; a number that is not in the table stays
//! a number, since peers and what stands between them may send anything.

use std::fmt;

macro_rules! codes {
    (
        $(#[$about:meta])* $name:ident {
            $( $(#[$variant_about:meta])* $variant:ident = $number:literal, $words:literal; )*
        }
    ) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum $name {
            $( $(#[$variant_about])* $variant, )*
            /// Any other number. A number of the table never arrives as this.
            Other(i64),
        }

        impl From<i64> for $name {
            fn from(number: i64) -> Self {
                match number {
                    $( $number => Self::$variant, )*
                    other => Self::Other(other),
                }
            }
        }

        impl From<$name> for i64 {
            fn from(code: $name) -> Self {
                match code {
                    $( $name::$variant => $number, )*
                    $name::Other(number) => number,
                }
            }
        }

        impl $name {
            /// The number on the wire.
            pub fn number(self) -> i64 {
                self.into()
            }
        }

        impl fmt::Display for $name {
            /// Number and meaning, as in `602 task refused`.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $( Self::$variant => write!(f, "{} {}", $number, $words), )*
                    Self::Other(number) => write!(f, "{number}"),
                }
            }
        }
    };
}

codes! {
    /// What a slave's answer means.
    SlaveCode {
        /// 0, with status 200. DI-engine: `SlaveSuccess`.
        Success = 0, "success";
        /// 1: a failure without a code of its own, such as an unknown path (404),
        /// a method that a path does not have (405) or a body that is too long
        /// (413). DI-engine has no class for it.
        Failure = 1, "failure";
        /// 101, with status 401. DI-engine: `SlaveSystemShuttingDown`.
        SystemShuttingDown = 101, "shutting down";
        /// 201, with status 400: no channel was given. DI-engine: `SlaveChannelNotFound`.
        ChannelNotFound = 201, "channel not found";
        /// 202, with status 403: it is another channel; with status 400: it is no
        /// integer. DI-engine: `SlaveChannelInvalid`.
        ChannelInvalid = 202, "channel invalid";
        /// 301, with status 400: no connection token was given.
        /// DI-engine: `SlaveMasterTokenNotFound`.
        MasterTokenNotFound = 301, "master token not found";
        /// 302, with status 403: the slave is not connected, or to another master. DI-engine:
        /// `SlaveMasterTokenInvalid`.
        MasterTokenInvalid = 302, "master token invalid";
        /// 401, with status 400: a self request without token.
        /// DI-engine: `SlaveSelfTokenNotFound`.
        SelfTokenNotFound = 401, "self token not found";
        /// 402, with status 403: a self request with another token.
        /// DI-engine: `SlaveSelfTokenInvalid`.
        SelfTokenInvalid = 402, "self token invalid";
        /// 501, with status 400: the slave has a master.
        /// DI-engine: `SlaveSlaveAlreadyConnected`.
        SlaveAlreadyConnected = 501, "slave already connected";
        /// 502, with status 400. Hardly ever seen, since 302 comes first. DI-engine:
        /// `SlaveSlaveNotConnected`.
        SlaveNotConnected = 502, "slave not connected";
        /// 503, with status 403: the slave does not want this master; with status
        /// 400: the request lacks something. DI-engine: `SlaveSlaveConnectionRefused`.
        SlaveConnectionRefused = 503, "connection refused";
        /// 504, with status 403: the slave does not want to be let go; with status
        /// 400: the request lacks something. DI-engine: `SlaveSlaveDisconnectionRefused`.
        SlaveDisconnectionRefused = 504, "disconnection refused";
        /// 601, with status 400: the slave has a task. DI-engine: `SlaveTaskAlreadyExist`.
        TaskAlreadyExist = 601, "task already exists";
        /// 602, with status 403: the slave does not want this task; with status
        /// 400: the request lacks something. DI-engine: `SlaveTaskRefused`.
        TaskRefused = 602, "task refused";
    }
}

codes! {
    /// What a master's answer means.
    MasterCode {
        /// 0, with status 200. DI-engine: `MasterSuccess`.
        Success = 0, "success";
        /// 1: a failure without a code of its own, such as an unknown path (404),
        /// a method that a path does not have (405) or a body that is too long
        /// (413). DI-engine has no class for it.
        Failure = 1, "failure";
        /// 101, with status 401. DI-engine: `MasterSystemShuttingDown`.
        SystemShuttingDown = 101, "shutting down";
        /// 201, with status 400: no channel was given. DI-engine: `MasterChannelNotGiven`.
        ChannelNotGiven = 201, "channel not given";
        /// 202, with status 403: it is another channel; with status 400: it is no
        /// integer. DI-engine: `MasterChannelInvalid`.
        ChannelInvalid = 202, "channel invalid";
        /// 301, never sent. DI-engine: `MasterMasterTokenNotGiven`.
        MasterTokenNotGiven = 301, "master token not given";
        /// 302, never sent. DI-engine: `MasterMasterTokenInvalid`.
        MasterTokenInvalid = 302, "master token invalid";
        /// 401, with status 400: a self request without token.
        /// DI-engine: `MasterSelfTokenNotGiven`.
        SelfTokenNotGiven = 401, "self token not given";
        /// 402, with status 403: a self request with another token.
        /// DI-engine: `MasterSelfTokenInvalid`.
        SelfTokenInvalid = 402, "self token invalid";
        /// 501, with status 400: no connection token was given.
        /// DI-engine: `MasterSlaveTokenNotGiven`.
        SlaveTokenNotGiven = 501, "slave token not given";
        /// 502, with status 403: the master has no such connection (any more). DI-engine:
        /// `MasterSlaveTokenInvalid`.
        SlaveTokenInvalid = 502, "slave token invalid";
        /// 601, with status **200** if the report names no task, else 400. DI-engine:
        /// `MasterTaskDataInvalid`.
        TaskDataInvalid = 601, "task data invalid";
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_comes_back_from_its_code() {
        for number in -1..1000 {
            assert_eq!(SlaveCode::from(number).number(), number);
            assert_eq!(MasterCode::from(number).number(), number);
        }
    }

    #[test]
    fn the_tables_hold_the_codes_of_di_engine() {
        let slave = [
            0, 1, 101, 201, 202, 301, 302, 401, 402, 501, 502, 503, 504, 601, 602,
        ];
        let master = [0, 1, 101, 201, 202, 301, 302, 401, 402, 501, 502, 601];
        for number in -1..1000 {
            let known = !matches!(SlaveCode::from(number), SlaveCode::Other(_));
            assert_eq!(known, slave.contains(&number), "slave {number}");
            let known = !matches!(MasterCode::from(number), MasterCode::Other(_));
            assert_eq!(known, master.contains(&number), "master {number}");
        }
    }

    #[test]
    fn a_code_prints_number_and_meaning() {
        assert_eq!(
            SlaveCode::from(501).to_string(),
            "501 slave already connected"
        );
        assert_eq!(
            MasterCode::from(501).to_string(),
            "501 slave token not given"
        );
        assert_eq!(SlaveCode::from(-7).to_string(), "-7");
    }
}
