"""Whatever happens in whatever order: a run driven by `decide` and the tables has at most one machine, and leaves none.

A world of one run without a network: the real decisions and the real tables, a provider that is a set of instances, replies that get
lost, lists that lag, machines that die, a user who stops and resumes, controllers that die between any two steps.
"""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from lumina_cloud.runs import failover, history, states
from lumina_cloud.runs.decide import Exit, Facts, decide
from lumina_cloud.runs.states import next_rental_state, next_run_state


class Said:
    """An event as `history.replay` reads it."""

    def __init__(self, kind, rental_id, data):
        self.kind, self.rental_id, self.data = kind, rental_id, data


class Life(RuleBasedStateMachine):
    """One run; `self.world` holds what its provider really has, by tag."""

    def __init__(self):
        super().__init__()
        self.run, self.reason, self.stop = "planned", None, False
        self.rentals, self.events = [], []
        self.world = {}
        self.started = self.training = False
        self.exit = None
        self.seen_late = False
        self.move_run("launch", "run.launched")

    # --- transitions, each with its event ---------------------------------------------------------------------------------

    def say(self, kind, rental=None, **data):
        self.events.append(Said(kind, rental, data))

    def move_run(self, event, kind, **data):
        self.run = next_run_state(self.run, event)
        self.say(kind, **data)

    def move_rental(self, event):
        self.rentals[-1] = next_rental_state(self.rentals[-1], event)
        self.say(f"rental.{event}", self.tag)

    @property
    def tag(self):
        return str(len(self.rentals))

    @property
    def live(self):
        return {tag for tag, state in self.world.items() if state != "ended"}

    def end(self, reason):
        self.reason = reason
        self.move_run("work_ended", "run.work_ended", reason=reason)

    # --- the controller ---------------------------------------------------------------------------------------------------

    def facts(self):
        rental = self.rentals[-1] if self.rentals else None
        machine = {None: "unknown", "booting": "creating", "running": "running", "ended": "gone"}[self.world.get(self.tag)]
        return Facts(
            run=self.run,
            stop_requested=self.stop,
            rental=rental,
            machine=machine,
            started=self.started,
            training=self.training,
            exit=self.exit,
        )

    @rule(reply_lost=st.booleans(), refused=st.booleans(), unseen=st.booleans())
    def step(self, reply_lost, refused, unseen):
        """One step; of a create the reply may be lost, and a look-up may see nothing yet."""
        facts = self.facts()
        decision = decide(facts)
        assert decision.action in states.ACTIONS[facts.run]
        match decision.action:
            case "intend":
                self.rentals.append("intended")
                self.started, self.training, self.exit = False, False, None
                self.say("rental.intended", self.tag)
            case "create":
                self.create(reply_lost, refused)
            case "abandon":
                self.abandon(unseen)
            case "mark_ready":
                self.rentals[-1] = next_rental_state(self.rentals[-1], "ready")
                self.run = next_run_state(self.run, "machine_ready")
                self.say("rental.ready", self.tag)
            case "end":
                self.end(decision.reason)
            case "conclude":
                self.conclude()
            case other:
                self.work(other)

    def work(self, action):
        match action:
            case "ship":
                self.started = True
            case "mark_training":
                self.move_run("training_began", "run.training_began")
            case "ask_to_stop":
                self.exit = Exit(75, "stopped")

    def create(self, reply_lost, refused):
        if self.tag in self.live:
            # The look-up by tag finds what a create of before made.
            self.adopt()
            return
        looked_for = {str(n + 1) for n, state in enumerate(self.rentals) if state == "lost"}
        assert self.live <= looked_for, "a second machine beside one that lives"
        self.move_rental("create")
        if refused:
            self.move_rental("abandoned")
            self.end("no_capacity")
            return
        self.world[self.tag] = "booting"
        if not reply_lost:
            self.adopt()

    def abandon(self, unseen):
        if self.tag in self.live and not unseen:
            self.adopt()
        else:
            self.move_rental("lost_sight" if self.rentals[-1] == "creating" else "abandoned")
        self.end("stopped_by_user")

    def adopt(self):
        if self.rentals[-1] == "intended":
            self.move_rental("create")
        self.move_rental("created")

    def conclude(self):
        if self.rentals and self.rentals[-1] in ("booting", "ready"):
            self.move_rental("terminate")
        if self.rentals and self.rentals[-1] == "terminating":
            self.world[self.tag] = "ended"
            self.move_rental("gone")
        if self.reason in failover.MACHINES_FAULT and not self.stop and len(self.rentals) < 5:
            self.move_run("next_machine", "run.next_machine")
            return
        event = states.REASONS[self.reason][0]
        self.stop = False
        self.move_run(event, "run.concluded", reason=self.reason)

    @precondition(lambda self: "lost" in self.rentals)
    @rule()
    def reconcile(self):
        """What a provider shows of a rental that nobody heard of is ended."""
        for number, state in enumerate(self.rentals):
            tag = str(number + 1)
            if state == "lost" and tag in self.live:
                for event in ("found", "gone"):
                    self.rentals[number] = next_rental_state(self.rentals[number], event)
                    self.say(f"rental.{event}", tag)
                self.world[tag] = "ended"

    # --- the world --------------------------------------------------------------------------------------------------------

    @rule()
    def boot(self):
        for tag in self.live:
            self.world[tag] = "running"

    @precondition(lambda self: self.started)
    @rule()
    def train(self):
        self.training = True

    @precondition(lambda self: self.started)
    @rule(code=st.sampled_from([0, 1, 2, 3, 75]), why=st.sampled_from(["finished", "crashed", "deadline", "lease"]))
    def trainer_ends(self, code, why):
        self.exit = self.exit or Exit(code, why)

    @rule()
    def die(self):
        for tag in self.live:
            self.world[tag] = "ended"

    @precondition(lambda self: self.run in states.ACTIVE)
    @rule()
    def stop_it(self):
        self.stop = True

    @precondition(lambda self: self.run in states.RESUMABLE and len(self.rentals) < 6)
    @rule()
    def resume(self):
        self.move_run("resume", "run.resumed")

    # --- what always holds --------------------------------------------------------------------------------------------------

    @invariant()
    def a_run_that_is_over_has_no_machine_but_one_that_is_looked_for(self):
        if self.run in states.FINAL:
            lost = {str(n + 1) for n, state in enumerate(self.rentals) if state == "lost"}
            assert self.live <= lost

    @invariant()
    def events_lead_to_the_states(self):
        reached = history.replay(self.events)
        assert reached.run == self.run
        assert list(reached.rentals.values()) == self.rentals

    def teardown(self):
        """A user who stops what goes on is obeyed in some steps, and reconciling finds the rest."""
        self.stop = self.run in states.ACTIVE
        for _ in range(12):
            if self.run in states.FINAL:
                break
            self.step(False, False, False)
        self.reconcile()
        assert self.run in states.FINAL
        assert not self.live


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
