"""`rslow update`: what reviewers said changes the gate, and on request the generator."""

from rs_lowconf.cli.app import ConfigOption, SetOption, app, load_settings
from rs_lowconf.cli.hints import hint
from rs_lowconf.cli.progress import show


@app.command()
def update(config: ConfigOption = None, set_: SetOption = None) -> None:
    """Teach the gate what reviewers rejected; the next `rslow generate` uses the new gate.

    From 10 rejects on, what tells them from real tiles becomes a part of the gate, which is
    calibrated again to the same joint false rejection. A gate of gate.recipe=frozen holds what
    this takes. One of gate.recipe=native needs 10 accepts too, and the data that it was trained
    on; from update.refine_from rejects the last stage of its critic is trained on with them as
    fakes, unless tiles have masks. Writes run.dir/update-N, whole or not at all, with report.html
    and report.json.
    """
    settings = load_settings(config, set_)
    from rs_lowconf.workflows.update import LearnedHead
    from rs_lowconf.workflows.update import update as update_gate

    made = show(update_gate(settings))
    learned = made.learned
    print(f"update {made.number}: {learned.answer}")
    if isinstance(learned, LearnedHead):
        print(
            f"The critic is {'refined' if learned.critic_refined else 'as before'}, the generator "
            f"{'trained on' if learned.generator_images else 'as before'}."
        )
    print(f"Report: {made.folder / 'report.html'}")
    hint("Next", "status")
