"Runs in other processes, as tests begin them"

from trainopt_nb.api.handle import FollowedRun
from trainopt_nb.api.in_workers import start_in_workers
from trainopt_nb.api.run_task import Where, run_task
from trainopt_nb.runs.run import Run
from trainopt_nb.task.task import Task
from trainopt_nb.task.train_options import TrainOptions


def launch(task: Task, options: TrainOptions, **place) -> Run:
    "Begin a run in the background"
    return run_task(task, options, Where(**place, background=True)).run


def leave(task: Task, options: TrainOptions, **place) -> FollowedRun:
    "Begin a run in other processes that end with this one"
    return start_in_workers(task, options, Where(**place))
