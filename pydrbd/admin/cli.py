"""The command line: from words to a verb, from an error to one line on stderr and an exit code.

    pydrbd [OPTIONS] VERB [OPTIONS] {all|RES...}

options.py says which verbs there are; verbs_*.py carry them out. Modules are imported when a verb needs them, because
most verbs are a question to a running process and shall be quick.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from pydrbd.admin.exit_codes import os_error_text
from pydrbd.admin.output import OutputError, complain, say
from pydrbd.errors import InternalError, PydrbdError, UsageError, exit_code_of

if TYPE_CHECKING:
    from argparse import Namespace

    from pydrbd.admin.context import Context, Target

__all__ = ["main"]

_EXIT_INTERNAL: Final = 70
_EXIT_INTERRUPTED: Final = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Carry out a command line (default: the process's own); its exit code. Errors are said on stderr."""
    try:
        return _run(list(sys.argv[1:] if argv is None else argv))
    except SystemExit as leaving:  # argparse, after it has printed the help of a command
        return leaving.code if isinstance(leaving.code, int) else 0
    except KeyboardInterrupt:
        return _EXIT_INTERRUPTED
    except OutputError as error:
        _drop_output()
        if str(error):
            complain(str(error))
        return error.exit_code
    except Exception as error:
        return _report(error)


def _drop_output() -> None:
    """What is left in the buffer must not fail again at exit."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _report(error: Exception) -> int:
    known = [found for found in _leaves(error) if isinstance(found, PydrbdError | OSError)]
    if len(known) == sum(1 for _ in _leaves(error)) and not any(isinstance(one, InternalError) for one in known):
        for one in dict.fromkeys(known):
            complain(os_error_text(one) if isinstance(one, OSError) else str(one))
        return exit_code_of(known[0])
    import traceback

    traceback.print_exception(error)
    complain("this is an error in pydrbd itself: please report it with the lines above")
    return _EXIT_INTERNAL


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors in a group of groups; Trio raises what happened at once as one group."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _run(words: list[str]) -> int:
    from pydrbd.admin.command_table import COMMANDS
    from pydrbd.admin.options import find_command, help_text, parse, suggestion

    place = find_command(words)
    if place is None:
        if "--version" in words or "-V" in words:
            from pydrbd import __version__

            say(f"pydrbd {__version__}")
            return 0
        if "--help" in words or "-h" in words:
            say(help_text())
            return 0
        raise UsageError("no command: 'pydrbd --help' lists them")
    verb, after = words[place], words[place + 1 :]
    before = [word for word in words[:place] if word != "--"]
    if verb == "help":
        say(help_text())
        return 0
    if verb not in COMMANDS:
        raise UsageError(f"unknown command '{verb}'{suggestion(verb, COMMANDS)}; 'pydrbd --help' lists them")
    if verb == "demo":
        from pydrbd.admin import demo

        return demo.main([*before, *after])
    from pydrbd.admin.context import Context

    arguments = parse(verb, before + after)
    if arguments.stacked:
        raise UsageError(f"{' '.join(arguments.names) or verb}: not available in stacked mode: nothing is stacked here")
    if COMMANDS[verb].names == "handler":
        from pydrbd.admin import verbs_snapshot

        arguments.names = verbs_snapshot.names_of_handler(arguments.names)
    tell = say if arguments.verbose and COMMANDS[verb].changes else None
    context = Context(arguments.config_path, arguments.node, arguments.run_dir, arguments.peer, tell)
    if to_test := getattr(arguments, "config_to_test", None):
        context.add_config(to_test)
    if arguments.dry_run and COMMANDS[verb].changes and not verb.startswith("adjust"):
        return _dry_run(context, verb, arguments.names, before + after)
    return _dispatch(context, verb, arguments)


def _dry_run(context: Context, verb: str, names: list[str], words: list[str]) -> int:
    """Check the names, and say what would be done, a command a line."""
    from shlex import join

    from pydrbd.admin.command_table import COMMANDS

    options = [word for word in words if word not in (*names, "-d", "--dry-run")]
    for target in context.targets(names, volumes=COMMANDS[verb].of_volumes):
        context.resource(target.resource)
        say(join(["pydrbd", verb, *options, str(target)]))
    return 0


def _dispatch(context: Context, verb: str, arguments: Namespace) -> int:
    match verb:
        case "serve":
            from pydrbd.admin import verbs_process

            resource = context.targets(arguments.names)[0].resource
            return verbs_process.serve(context, resource, arguments.log_file, bare=arguments.bare)
        case "status":
            from pydrbd.admin import verbs_show
            from pydrbd.admin.colours import is_wanted

            return verbs_show.status(
                context,
                arguments.names,
                as_json=arguments.json,
                verbose=arguments.verbose,
                statistics=arguments.statistics,
                colours=is_wanted(arguments.color),
            )
        case "events2" | "events":
            return _events(context, verb, arguments)
        case "sh-status":
            from pydrbd.admin import verbs_sh_status

            return verbs_sh_status.sh_status(context, arguments.names)
        case "sh-nop" | "sh-resources" | "sh-mod-parms" | "dump-xml":
            from pydrbd.admin import verbs_script

            return verbs_script.of_all(context, verb, arguments.names)
        case "top":
            from pydrbd.admin import verbs_top

            return verbs_top.top(context, interval_s=arguments.interval_s, once=arguments.once)
        case "metrics":
            from pydrbd.admin import verbs_metrics

            return verbs_metrics.metrics(context, arguments.listen, once=arguments.once)
        case "witness":
            from pydrbd.admin import verbs_witness

            return verbs_witness.witness(arguments.listen, arguments.state, arguments.key_file, arguments.forget)
        case "nbd-attach" | "nbd-detach":
            return _on_block_device(context, verb, arguments)
        case "proc" | "proc-drbd" | "dump":
            from pydrbd.admin import verbs_show

            show = verbs_show.dump if verb == "dump" else verbs_show.proc_drbd
            return show(context, arguments.names)
    from pydrbd.admin.command_table import COMMANDS

    if verb == "set-gi":
        from pydrbd.admin import verbs_gi

        arguments.gi, arguments.names = verbs_gi.identifiers_among(arguments.gi, arguments.names)
    targets = context.targets(arguments.names, volumes=COMMANDS[verb].of_volumes)
    if COMMANDS[verb].group == "meta-data":
        context.tell(" ".join(["pydrbd", verb, *map(str, targets)]))
    return _for_each(targets, _action(context, verb, arguments))


def _events(context: Context, verb: str, arguments: Namespace) -> int:
    from pydrbd.admin import verbs_events
    from pydrbd.admin.colours import is_wanted
    from pydrbd.admin.events import Detail

    if verb == "events":
        return verbs_events.events(context, arguments.names, now=arguments.now)
    figures = Detail.STATISTICS if arguments.statistics else Detail.STATE
    detail = Detail.FULL if arguments.full else figures
    form = verbs_events.Format(
        detail,
        timestamps=arguments.timestamps,
        as_json=arguments.json,
        diff=arguments.diff,
        colours=is_wanted(arguments.color),
    )
    return verbs_events.events2(context, arguments.names, form, now=arguments.now, poll=arguments.poll)


def _on_block_device(context: Context, verb: str, arguments: Namespace) -> int:
    from pydrbd.admin import verbs_nbd

    if verb == "nbd-detach":
        return verbs_nbd.detach(context, arguments.names, force=arguments.force, dry_run=arguments.dry_run)
    return verbs_nbd.attach(
        context,
        arguments.names,
        arguments.uris,
        dead_timeout_s=arguments.dead_timeout_s,
        connections=arguments.connections,
        force=arguments.force,
        foreground=arguments.foreground,
        dry_run=arguments.dry_run,
    )


def _for_each(targets: Sequence[Target], action: Callable[[Target], int]) -> int:
    """Do it to every target, also when one fails; the exit code is the first failure's."""
    codes = []
    for target in targets:
        try:
            codes.append(action(target))
        except (PydrbdError, OSError) as error:
            if len(targets) == 1 or isinstance(error, InternalError | OutputError):
                raise
            codes.append(_report(error))
    return next((code for code in codes if code), 0)


def _action(context: Context, verb: str, arguments: Namespace) -> Callable[[Target], int]:
    """What a verb does to one target."""
    if verb == "doctor":
        from pydrbd.admin import verbs_doctor

        return lambda target: verbs_doctor.doctor(context, target.resource)
    if verb in ("adjust", "adjust-with-progress"):
        from pydrbd.admin import verbs_adjust

        wishes = verbs_adjust.Wishes(arguments.skip_disk, arguments.skip_net, arguments.discard_my_data)
        return lambda target: verbs_adjust.adjust(context, target.resource, wishes, dry_run=arguments.dry_run)
    if verb in ("up", "down"):
        from pydrbd.admin import verbs_process

        if verb == "up":
            return lambda target: verbs_process.up(context, target.resource)
        return lambda target: verbs_process.down(context, target.resource, force=arguments.force)
    if verb in ("new-resource", "new-minor", "sh-new-minor", "del-minor", "del-resource"):
        from pydrbd.admin import verbs_objects

        return verbs_objects.action(context, verb)
    if verb.startswith("sh-") or verb == "show":
        from pydrbd.admin import verbs_script

        return verbs_script.of_each(context, verb, defaults=verb == "show" and arguments.show_defaults)
    if verb in ("net-options", "disk-options", "resource-options"):
        from pydrbd.admin import verbs_options

        return lambda target: verbs_options.set_options(context, target, verb, vars(arguments))
    if verb in ("role", "state", "cstate", "dstate"):
        from pydrbd.admin import verbs_show

        shows = {"cstate": verbs_show.cstate, "dstate": verbs_show.dstate}
        show = shows.get(verb, verbs_show.role)
        return lambda target: show(context, target)
    if verb in ("wait-connect", "wait-con-int", "wait-sync"):
        return _waiting(context, verb, arguments)
    if verb == "connect" and arguments.tentative:
        from pydrbd.admin import verbs_wait

        return lambda target: verbs_wait.connect_tentatively(
            context, target.resource, discard_my_data=arguments.discard_my_data
        )
    if verb in ("snapshot-resync-target", "unsnapshot-resync-target"):
        return _on_snapshots(context, verb, arguments)
    if verb in ("verify", "check"):
        return _comparing(context, verb, arguments)
    if verb in ("create-md", "dump-md", "apply-al", "check-resize", "wipe-md", "get-gi", "show-gi", "set-gi"):
        return _on_meta_data(context, verb, arguments)
    from pydrbd.admin import verbs_state
    from pydrbd.admin.command_table import COMMANDS

    if verb == "outdate":
        return lambda target: verbs_state.outdate(context, target.resource)
    options = _handed_on(arguments)
    if COMMANDS[verb].of_volumes:
        return lambda target: verbs_state.request_of_volumes(context, target, verb, options)
    return lambda target: verbs_state.request(context, target.resource, verb, options)


def _handed_on(arguments: Namespace) -> dict[str, Any]:
    """The options of a verb that its request has, too."""
    names = {"force", "discard_my_data", "clear_bitmap", "size_sectors", "assume_clean", "assume_peer_has_space"}
    if_given = {"al_stripes", "al_stripe_size_kib"}
    given = vars(arguments).items()
    return {name: value for name, value in given if name in names or (name in if_given and value is not None)}


def _waiting(context: Context, verb: str, arguments: Namespace) -> Callable[[Target], int]:
    from pydrbd.admin import verbs_wait
    from pydrbd.config.sections import StartupOptions

    def patience(target: Target) -> verbs_wait.Patience:
        startup = context.config.resource(target.resource).startup if context.has_config else StartupOptions()
        return verbs_wait.Patience.of(startup, arguments)

    if verb == "wait-sync":
        return lambda target: verbs_wait.wait_sync(context, target.resource, patience(target), quiet=arguments.quiet)
    wait = verbs_wait.wait_at_start if verb == "wait-con-int" else verbs_wait.wait_connect
    return lambda target: wait(context, target.resource, patience(target))


def _comparing(context: Context, verb: str, arguments: Namespace) -> Callable[[Target], int]:
    places = {"start_sector": arguments.start_sector, "stop_sector": arguments.stop_sector}
    if verb == "verify":
        from pydrbd.admin import verbs_verify

        return lambda target: verbs_verify.verify(context, target.resource, places, wait=arguments.wait)
    from pydrbd.admin import verbs_check

    if not arguments.against_peer:
        raise UsageError("check compares with the peer's copy: say so, check --against-peer (doctor looks at the rest)")
    if (arguments.map_path or arguments.json) and len(context.targets(arguments.names)) > 1:
        raise UsageError("check: --json and --map are for one resource: name it")
    return lambda target: verbs_check.check(
        context, target.resource, places, arguments.map_path, as_json=arguments.json
    )


def _on_snapshots(context: Context, verb: str, arguments: Namespace) -> Callable[[Target], int]:
    from pydrbd.admin import verbs_snapshot

    if verb == "unsnapshot-resync-target":
        return lambda target: verbs_snapshot.unsnapshot(context, target, keep=arguments.keep)
    return lambda target: verbs_snapshot.snapshot(
        context, target, copies=arguments.copy, is_needed=not arguments.best_effort
    )


def _on_meta_data(context: Context, verb: str, arguments: Namespace) -> Callable[[Target], int]:
    if verb in ("get-gi", "show-gi"):
        from pydrbd.admin import verbs_gi

        return lambda target: verbs_gi.show_gi(context, target, picture=verb == "show-gi")
    if verb == "set-gi":
        from pydrbd.admin import verbs_gi

        return lambda target: verbs_gi.set_gi(context, target, arguments.gi, force=arguments.force)
    from pydrbd.admin import verbs_metadata

    if verb == "dump-md":
        return lambda target: verbs_metadata.dump_meta_data(context, target, force=arguments.force)
    if verb == "check-resize":
        return lambda target: verbs_metadata.check_resize(context, target)
    if verb == "wipe-md":
        return lambda target: verbs_metadata.wipe_md(context, target, force=arguments.force)
    if verb == "apply-al":
        return lambda target: verbs_metadata.apply_al(context, target)
    return lambda target: verbs_metadata.create_md(
        context,
        target,
        force=arguments.force,
        al_stripes=arguments.al_stripes,
        al_stripe_size_kib=arguments.al_stripe_size_kib,
    )
