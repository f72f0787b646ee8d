# Copyright 2026 The neuron_chunk_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Run as a program: asks robots what each line of its standard input says, prints the answers.

A line is {"ask": {ROBOT: PROMPT}, "timeout": seconds}; all robots are asked at the same time. The
line that comes back is {ROBOT: ANSWER}, where ANSWER is null when none came in time.
"""

import json
import sys
import time

import rclpy

from neuron_chunk_interfaces.srv import Query


def ask(node, clients, prompts, limit):
    """Return {robot: response} of those that answered before `limit`."""
    pending, answered = {}, {}
    while len(answered) < len(prompts) and time.monotonic() < limit:
        for robot, prompt in prompts.items():
            if robot not in pending and clients[robot].service_is_ready():
                pending[robot] = clients[robot].call_async(Query.Request(prompt=prompt))
        rclpy.spin_once(node, timeout_sec=0.05)
        answered = {robot: future.result() for robot, future in pending.items() if future.done()}
    for robot in pending.keys() - answered:
        clients[robot].remove_pending_request(pending[robot])
    return answered


def told(response):
    """Return what the test wants to know of a response."""
    answer = response.answer
    return {'success': response.success, 'message': response.message, 'text': answer.text,
            'frames': [header.frame_id for header in (answer.header, *answer.images)]}


def main():
    """Answer lines until there are no more."""
    rclpy.init()
    node = rclpy.create_node('operator')
    clients = {}
    for line in sys.stdin:
        order = json.loads(line)
        for robot in order['ask']:
            if robot not in clients:
                clients[robot] = node.create_client(Query, f'/{robot}/vlm/query')
        answered = ask(node, clients, order['ask'], time.monotonic() + order['timeout'])
        print(json.dumps({robot: told(answered[robot]) if robot in answered else None
                          for robot in order['ask']}), flush=True)


if __name__ == '__main__':
    main()
