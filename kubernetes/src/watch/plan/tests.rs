use proptest::prelude::*;

use super::super::health::Presence;
use super::*;

/// A server that answers as the test says, and a clock that only moves when it is told to.
struct World {
    plan: Plan,
    now: Instant,
}

const NOW: &str = "it is due now";

impl World {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            plan: Plan::new(Config::default(), now),
            now,
        }
    }

    fn next(&self) -> Step {
        self.plan.next(self.now)
    }

    fn pass(&mut self, duration: Duration) {
        self.now += duration;
    }

    fn millis(&mut self, millis: u64) {
        self.pass(Duration::from_millis(millis));
    }

    /// How long the plan wants to wait, with or without a watch to read.
    fn pause(&self) -> Duration {
        match self.next() {
            Step::Wait { until } | Step::Read { until } => until - self.now,
            Step::List { .. } | Step::Watch { .. } => panic!("{NOW}"),
        }
    }

    fn list(&mut self, version: Option<&str>, news: News) {
        assert!(
            matches!(self.next(), Step::List { .. }),
            "{:?}",
            self.next()
        );
        self.plan.list_started(self.now);
        self.plan.listed(version.map(Into::into), news);
    }

    fn list_fails(&mut self, class: Class) {
        assert!(
            matches!(self.next(), Step::List { .. }),
            "{:?}",
            self.next()
        );
        self.plan.list_started(self.now);
        self.plan.list_failed(&failure(class), self.now, 1.0);
    }

    fn watch(&mut self) -> Option<String> {
        let Step::Watch { version } = self.next() else {
            panic!("{:?}", self.next());
        };
        self.plan.watch_started(self.now, 0.0);
        self.plan.watch_accepted(self.now);
        version
    }

    fn watch_fails(&mut self, class: Class) {
        self.plan.watch_failed(&failure(class), self.now, 1.0);
    }

    fn watch_ends(&mut self) {
        self.plan.watch_ended(self.now);
    }

    /// Past the first list of a server with versions, or of one without.
    fn listed(version: Option<&str>) -> Self {
        let mut world = Self::new();
        world.list(version, News::Changed);
        world
    }
}

fn failure(class: Class) -> Failure {
    Failure {
        presence: Presence::Unsaid,
        class,
        retry_after: None,
        text: String::new(),
    }
}

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

#[test]
fn a_watch_goes_on_from_the_list_and_then_from_where_it_ended() {
    let mut world = World::listed(Some("5"));
    assert_eq!(world.watch().as_deref(), Some("5"));
    world.plan.event(Some("7"), News::Changed);
    world.plan.bookmark(Some("9"));
    assert_eq!(
        world.pause(),
        seconds(130.0),
        "there is one watch, and it is read until it is over"
    );
    world.pass(seconds(130.0));
    assert!(world.plan.watch_over(world.now));
    assert_eq!(world.watch().as_deref(), Some("9"));
    world.pass(seconds(60.0));
    assert!(!world.plan.watch_over(world.now));
    world.watch_ends();
    assert_eq!(world.watch().as_deref(), Some("9"));
}

#[test]
fn the_servers_time_is_at_least_what_was_wished_for() {
    let check = |timeout: f64, share, expected| {
        let config = Config {
            watch_timeout: seconds(timeout),
            ..Config::default()
        };
        let now = Instant::now();
        assert_eq!(Plan::new(config, now).watch_started(now, share), expected);
    };
    check(120.0, 0.0, 120);
    check(120.0, 1.0, 180);
    check(0.2, 0.0, 1);
    check(0.0, 0.0, 1);
}

#[test]
fn a_watch_that_breaks_is_opened_again_later_and_later() {
    let mut world = World::listed(Some("5"));
    let mut pauses = Vec::new();
    for _ in 0..8 {
        world.watch();
        world.watch_fails(Class::Unreachable);
        pauses.push(world.pause().as_secs_f64());
        world.pass(world.pause());
    }
    assert_eq!(pauses, [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]);
    assert_eq!(world.watch().as_deref(), Some("5"), "and no list is read");
    world.plan.bookmark(Some("6"));
    world.watch_fails(Class::Unreachable);
    assert_eq!(
        world.pause(),
        seconds(0.5),
        "a watch that said something is well"
    );
}

#[test]
fn a_watch_that_is_refused_is_not_all_that_is_tried() {
    let mut world = World::listed(Some("5"));
    world.pass(seconds(10.0));
    for _ in 0..2 {
        world.watch();
        world.watch_fails(Class::Refused);
        world.pass(world.pause());
    }
    world.watch();
    world.watch_fails(Class::Refused);
    world.list(Some("8"), News::Changed);
    assert_eq!(world.pause(), seconds(2.0));
    world.millis(2000);
    assert_eq!(world.watch().as_deref(), Some("8"));
}

#[test]
fn lost_history_is_read_again_at_once_and_then_after_pauses() {
    let mut world = World::listed(Some("5"));
    world.watch();
    world.pass(seconds(10.0));
    world.watch_fails(Class::Gone);
    world.list(Some("50"), News::Changed);
    assert_eq!(world.watch().as_deref(), Some("50"));
    world.watch_fails(Class::Gone);
    assert_eq!(world.pause(), seconds(1.0));
    world.millis(1000);
    world.list(Some("51"), News::Same);
    world.watch();
    world.watch_fails(Class::Gone);
    assert_eq!(world.pause(), seconds(2.0));
    world.millis(2000);
    world.list(Some("52"), News::Same);
    world.watch();
    world.plan.event(Some("53"), News::Changed);
    world.pass(seconds(10.0));
    world.watch_fails(Class::Gone);
    world.list(Some("60"), News::Same);
}

#[test]
fn one_event_each_time_does_not_make_lost_history_cheap() {
    let mut world = World::listed(Some("5"));
    world.watch();
    world.plan.event(Some("6"), News::Changed);
    world.watch_fails(Class::Gone);
    assert_eq!(world.pause(), seconds(1.0), "a list was just read");
}

#[test]
fn lists_that_fail_are_read_again_later_and_later() {
    let mut world = World::new();
    let mut pauses = Vec::new();
    for _ in 0..4 {
        world.list_fails(Class::Unreachable);
        pauses.push(world.pause().as_secs_f64());
        world.pass(world.pause());
    }
    assert_eq!(pauses, [0.5, 1.0, 2.0, 4.0]);
    world.plan.list_started(world.now);
    let asked = Failure {
        retry_after: Some(seconds(20.0)),
        ..failure(Class::Unreachable)
    };
    world.plan.list_failed(&asked, world.now, 0.0);
    assert_eq!(world.pause(), seconds(20.0));
}

#[test]
fn a_page_that_expired_is_followed_by_one_whole_list() {
    let mut world = World::new();
    world.list_fails(Class::Gone);
    let whole = Step::List {
        paging: Paging::Whole,
    };
    assert_eq!(world.next(), whole);
    world.list_fails(Class::Gone);
    assert_eq!(world.pause(), seconds(0.5));
    world.millis(500);
    let pages = Step::List {
        paging: Paging::Pages,
    };
    assert_eq!(world.next(), pages);
}

#[test]
fn without_versions_each_watch_is_followed_by_one_list() {
    let mut world = World::listed(None);
    assert_eq!(world.watch(), None);
    assert_eq!(
        world.pause(),
        seconds(1.0),
        "the second list comes a pause after the first"
    );
    world.millis(1000);
    world.list(None, News::Same);
    assert_eq!(world.pause(), seconds(129.0), "now nothing can escape");
    world.plan.event(None, News::Changed);
    world.pass(seconds(100.0));
    world.watch_ends();
    assert_eq!(world.watch(), None, "the watch goes first");
    world.list(None, News::Same);
}

#[test]
fn without_versions_a_watch_that_does_not_answer_is_not_waited_for() {
    let mut world = World::listed(None);
    world.pass(seconds(10.0));
    assert!(matches!(world.next(), Step::Watch { .. }));
    world.plan.watch_started(world.now, 0.0);
    assert_eq!(world.pause(), REGISTERED_AFTER);
    world.pass(REGISTERED_AFTER);
    world.list(None, News::Same);
    world.millis(5000);
    world.plan.watch_accepted(world.now);
    world.list(None, News::Same);
    assert!(world.pause() > seconds(100.0));
}

#[test]
fn without_versions_lists_slow_down_while_nothing_changes() {
    let mut world = World::listed(None);
    let mut pauses = Vec::new();
    for _ in 0..5 {
        world.watch();
        world.watch_fails(Class::Refused);
        while !matches!(world.next(), Step::List { .. }) {
            let pause = world.pause();
            world.pass(pause);
            pauses.push(pause.as_secs_f64());
            if matches!(world.next(), Step::Watch { .. }) {
                break;
            }
        }
        if matches!(world.next(), Step::List { .. }) {
            world.list(None, News::Same);
        }
        while !matches!(world.next(), Step::Watch { .. }) {
            if matches!(world.next(), Step::List { .. }) {
                world.list(None, News::Same);
            } else {
                world.pass(world.pause());
            }
        }
    }
    assert_eq!(
        world.plan.list.not_before - world.plan.list.started.expect("a list"),
        seconds(3.0)
    );
    world.watch();
    world.plan.event(None, News::Changed);
    assert_eq!(world.plan.list.still, 0, "news make it quick again");
}

#[test]
fn watches_that_end_at_once_are_opened_slower_unless_they_bring_news() {
    let mut world = World::listed(None);
    let mut pauses = Vec::new();
    for _ in 0..7 {
        world.watch();
        world.watch_ends();
        let due = world.plan.watch.not_before;
        pauses.push((due - world.now).as_millis());
        world.now = due;
    }
    assert_eq!(pauses, [50, 100, 200, 400, 800, 1000, 1000]);
    world.watch();
    world.plan.event(None, News::Changed);
    world.watch_ends();
    world.watch();
    world.watch_ends();
    assert_eq!(world.plan.watch.not_before - world.now, seconds(0.05));
}

#[test]
fn versions_that_do_not_hold_what_they_promise_are_not_used() {
    let check = |version: Option<&str>, news, expected| {
        let mut world = World::listed(Some("5"));
        world.watch();
        world.plan.event(version, news);
        assert_eq!(world.plan.trust, expected, "{version:?} {news:?}");
        assert_eq!(world.plan.list.owed, expected == Trust::Nothing);
    };
    check(Some("6"), News::Changed, Trust::Versions);
    check(Some("5"), News::Same, Trust::Versions);
    check(Some("4"), News::Same, Trust::Versions);
    check(None, News::Same, Trust::Versions);
    check(Some("x"), News::Changed, Trust::Versions);
    check(Some("5"), News::Changed, Trust::Nothing);
    check(Some("4"), News::Changed, Trust::Nothing);
    check(None, News::Changed, Trust::Nothing);
}

#[test]
fn a_list_that_differs_at_the_same_version_is_not_believed() {
    let mut world = World::listed(Some("1"));
    world.watch();
    world.pass(seconds(10.0));
    world.watch_fails(Class::Gone);
    world.list(Some("1"), News::Changed);
    assert_eq!(world.watch(), None);
}

#[test]
fn watches_that_keep_ending_early_are_accompanied_by_lists() {
    let mut world = World::listed(Some("5"));
    world.pass(seconds(10.0));
    for number in 6..9 {
        world.watch();
        assert!(world.pause() > seconds(100.0), "no list so far");
        world.plan.event(Some(&number.to_string()), News::Changed);
        world.watch_ends();
    }
    assert_eq!(
        world.watch().as_deref(),
        Some("8"),
        "the version is still used"
    );
    world.list(Some("9"), News::Changed);
    world.pass(seconds(60.0));
    world.watch_ends();
    world.watch();
    assert!(
        world.pause() > seconds(100.0),
        "one that lasts makes up for it"
    );
}

/// What the server does next, and how long it takes.
#[derive(Clone, Debug)]
enum Answer {
    Good(Option<u8>, bool),
    Bad(Class, Option<u8>),
    End,
    Bookmark(u8),
    Accept,
    Nothing,
}

fn answers() -> impl Strategy<Value = Vec<(Answer, u16, u8)>> {
    let class = prop_oneof![
        Just(Class::Gone),
        Just(Class::Unreachable),
        Just(Class::Refused)
    ];
    let answer = prop_oneof![
        (any::<Option<u8>>(), any::<bool>())
            .prop_map(|(version, news)| Answer::Good(version, news)),
        (class, any::<Option<u8>>()).prop_map(|(class, after)| Answer::Bad(class, after)),
        Just(Answer::End),
        any::<u8>().prop_map(Answer::Bookmark),
        Just(Answer::Accept),
        Just(Answer::Nothing),
    ];
    proptest::collection::vec((answer, 0_u16..2000, any::<u8>()), 1..200)
}

proptest! {
    /// Whatever the server does, it is neither hammered nor forgotten, and one watch is open at most.
    #[test]
    fn no_server_is_hammered_or_forgotten(answers in answers(), slow in any::<bool>()) {
        let mut world = World::new();
        let mut last_list: Option<Instant> = None;
        let mut last_watch: Option<(Instant, bool)> = None;
        let mut open = false;
        let mut listed = false;
        for (answer, millis, share) in answers {
            let share = f64::from(share) / 255.0;
            let took = if slow { Duration::from_millis(millis.into()) } else { Duration::ZERO };
            match world.next() {
                Step::Wait { until } => {
                    prop_assert!(!open && until > world.now, "a wait that ends at once");
                    prop_assert!(until <= world.now + seconds(66.1), "forgotten");
                    world.now = until;
                }
                Step::List { paging } => {
                    let early = last_list.is_some_and(|last| world.now < last + Duration::from_millis(250));
                    prop_assert!(!early || paging == Paging::Whole, "lists too close");
                    last_list = Some(world.now);
                    world.plan.list_started(world.now);
                    world.pass(took);
                    match answer {
                        Answer::Bad(class, after) => {
                            let retry_after = after.map(|after| Duration::from_secs(after.into()));
                            let failure = Failure { retry_after, ..failure(class) };
                            world.plan.list_failed(&failure, world.now, share);
                        }
                        Answer::Good(version, news) => {
                            let news = if news { News::Changed } else { News::Same };
                            world.plan.listed(version.map(|version| version.to_string()), news);
                            listed = true;
                        }
                        _ => {
                            world.plan.listed(None, News::Same);
                            listed = true;
                        }
                    }
                }
                Step::Watch { .. } => {
                    prop_assert!(listed && !open, "a second watch, or one before the list");
                    if let Some((last, news)) = last_watch {
                        let early = world.now < last + Duration::from_millis(50);
                        let list_between = last_list.is_some_and(|list| list >= last);
                        prop_assert!(!early || news || list_between, "watches too close");
                    }
                    last_watch = Some((world.now, false));
                    open = true;
                    world.plan.watch_started(world.now, share);
                }
                Step::Read { until } => {
                    prop_assert!(open && until >= world.now);
                    match answer {
                        Answer::Good(version, news) => {
                            if let (Some((_, told)), true) = (&mut last_watch, news) {
                                *told = true;
                            }
                            let version = version.map(|version| version.to_string());
                            world.pass(took.min(until - world.now));
                            world.plan.event(version.as_deref(), if news { News::Changed } else { News::Same });
                        }
                        Answer::Bad(class, _) => {
                            world.watch_fails(class);
                            open = false;
                        }
                        Answer::End => {
                            world.watch_ends();
                            open = false;
                        }
                        Answer::Bookmark(version) => world.plan.bookmark(Some(&version.to_string())),
                        Answer::Accept => world.plan.watch_accepted(world.now),
                        Answer::Nothing => {
                            world.now = until;
                            open = !world.plan.watch_over(world.now);
                        }
                    }
                }
            }
        }
    }
}
