"""Sockets, ports and messages. `inbox` is a datagram socket that the comparer counts the messages of."""

from effects.habit import MULTISET, Habit

SEND = "import socket\ns = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\ns.sendto(b'x', 'inbox')\n"
BIND = "import socket\ns = socket.socket(socket.AF_UNIX)\ntry:\n    s.bind('mine')\n    seen = 'won'\nexcept OSError:\n    seen = 'lost'\n"

HABITS = [
    Habit("datagram", SEND + "s.close()\n"),
    Habit("datagram_left_open", SEND),
    Habit("datagram_and_draw", SEND + "s.close()\nimport random\nx = random.random()\n"),
    Habit("datagram_n1", SEND + "s.close()\nimport os\nx = os.getpid()\n", ranks=1),
    Habit(
        "datagram_sendmsg",
        "import socket\ns = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\ns.connect('inbox')\ns.sendmsg([b'x'])\ns.close()\n",
    ),
    Habit(
        "datagram_syslog_like",
        "import logging.handlers as h, logging\nx = h.SysLogHandler('inbox')\nx.emit(logging.makeLogRecord({'msg': 'x'}))\nx.close()\n",
    ),
    Habit("bind_unix_winner", BIND + "s.close()\n", MULTISET),
    Habit(
        "free_port_kept",
        "import socket\ns = socket.socket()\ns.bind(('127.0.0.1', 0))\nseen = s.getsockname()[1]\n",
        "distinct",
        after="time.sleep(0.3)",
    ),
    Habit(
        "free_port_closed",
        "import socket\ns = socket.socket()\ns.bind(('127.0.0.1', 0))\ns.listen()\nseen = s.getsockname()[1]\n",
        "distinct",
        after="time.sleep(0.3); habit.s.close()",
    ),
    Habit(
        "free_port_udp",
        "import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\ns.bind(('127.0.0.1', 0))\nseen = s.getsockname()[1]\n",
        "distinct",
        after="time.sleep(0.3)",
    ),
    Habit(
        "abstract_socket_winner",
        "import os, socket\ns = socket.socket(socket.AF_UNIX)\ntry:\n    s.bind('\\0' + os.getcwd())\n    seen = 'won'\nexcept OSError:\n    seen = 'lost'\n",
        MULTISET,
        after="time.sleep(0.3)",
    ),
    Habit(
        "autobind",
        "import socket\ns = socket.socket(socket.AF_UNIX)\ns.bind('')\nseen = s.getsockname()\n",
        "distinct",
        after="time.sleep(0.3)",
    ),
    Habit(
        "socketpair_kept",
        "import socket\na, b = socket.socketpair()\n",
        after="habit.a.send(b'x'); habit.seen = habit.b.recv(9)",
    ),
    Habit(
        "pipe_kept", "import os\nr, w = os.pipe()\n", after="os.write(habit.w, b'x'); habit.seen = os.read(habit.r, 9)"
    ),
    Habit("pipe_filled", "import os\nr, w = os.pipe()\nos.write(w, b'x')\n", after="habit.seen = os.read(habit.r, 9)"),
    Habit(
        "eventfd_kept",
        "import os\ne = os.eventfd(1) if hasattr(os, 'eventfd') else -1\n",
        after="habit.seen = os.eventfd_read(habit.e)",
    ),
    Habit("epoll_kept", "import select\ne = select.epoll()\n", after="habit.seen = habit.e.poll(0)"),
    Habit(
        "asyncio_loop",
        "import asyncio\nl = asyncio.new_event_loop()\n",
        after="habit.seen = habit.l.run_until_complete(asyncio.sleep(0, 5)) if (asyncio := __import__('asyncio')) else 0; habit.l.close()",
    ),
    Habit("hostname", "import socket\nseen = socket.gethostname() != ''\n", keep=True),
    Habit("getaddrinfo_local", "import socket\nseen = socket.getaddrinfo('127.0.0.1', 80)[0][4]\n"),
    Habit(
        "connect_refused", "import socket\ns = socket.socket()\nseen = s.connect_ex(('127.0.0.1', 1)) != 0\ns.close()\n"
    ),
    Habit(
        "selector_made", "import selectors\ns = selectors.DefaultSelector()\n", after="habit.seen = habit.s.select(0)"
    ),
]
