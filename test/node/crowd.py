# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A crowd: many processes ask at once, each several times, each with a goal as well.

crowd.py NODE CLIENTS CALLS KILLED: the first KILLED clients are killed as they ask; of the others
one in three cancels its goal. Prints JSON: for each client that lives, of each call [seconds,
success, message], null where no response came; and the goal's [seconds, status]. Clients as most
are: with ROS's own queues.
"""

import array
import json
import os
import signal
import sys
import time
from multiprocessing import get_context

import rclpy
from rclpy.action import ActionClient
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import Image

from neuron_chunk_interfaces.action import Ask
from neuron_chunk_interfaces.srv import Query

PATIENCE = 60.0
LIFE = 120  # seconds, however the test ends


def client(name: str, calls: int, cancel: bool, pipe) -> None:
    """Be one of the crowd."""
    signal.alarm(LIFE)
    rclpy.init()
    node = rclpy.create_node('one_of_many')
    questions = node.create_client(Query, f'{name}/query')
    action = ActionClient(node, Ask, f'{name}/ask')
    pipe.send(questions.wait_for_service(PATIENCE) and action.wait_for_server(PATIENCE))
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    pipe.recv()
    picture = Image(height=48, width=64, encoding='rgb8', step=192,
                    data=array.array('B', bytes(48 * 192)))
    asked = dict(prompt='how many things are there?', images=[picture])
    began, told, goal = time.monotonic(), [None] * calls, None
    futures = [questions.call_async(Query.Request(**asked)) for _ in range(calls)]
    sent, result = action.send_goal_async(Ask.Goal(**asked)), None
    while (None in told or goal is None) and time.monotonic() - began < PATIENCE:
        executor.spin_once(timeout_sec=0.1)
        for number, future in enumerate(futures):
            if told[number] is None and future.done():
                response = future.result()
                told[number] = [time.monotonic() - began, response.success, response.message]
        if result is None and sent.done():
            result = sent.result().get_result_async()
            if cancel:
                sent.result().cancel_goal_async()
        if goal is None and result is not None and result.done():
            goal = [time.monotonic() - began, result.result().status]
    pipe.send([told, goal])
    pipe.recv()  # nobody leaves before all have heard: it would cost those that wait


def main(name: str, clients: int, calls: int, killed: int) -> None:
    """Make a crowd, which is forked: to import everything fifty times takes a minute."""
    signal.alarm(LIFE)
    context, crowd = get_context('fork'), []
    for number in range(clients):
        mine, theirs = context.Pipe()
        process = context.Process(target=client, args=(name, calls, number % 3 == 0, theirs))
        process.start()
        theirs.close()
        crowd.append((process, mine))
    assert all(pipe.recv() for _, pipe in crowd), 'the node was not found'
    for _, pipe in crowd:
        pipe.send('go')
    for process, _ in crowd[:killed]:
        time.sleep(0.02)
        process.kill()
    print(json.dumps([pipe.recv() for _, pipe in crowd[killed:]]), flush=True)
    for process, _ in crowd:
        process.kill()
        process.join()
    os._exit(0)


if __name__ == '__main__':
    main(sys.argv[1], *map(int, sys.argv[2:5]))
