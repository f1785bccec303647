"""The table of ordinary programs: what to run, and what it takes. Data; runs nothing.

Each runs in an empty directory of its own, and must do the same each time: what it prints, its exit
status, and the files it leaves are compared.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

__all__ = ["LONG", "SHORT", "Program"]


class Program(NamedTuple):
    """One program. ``needs``: commands that must be there; ``packages``: Debian's that have them."""

    name: str
    command: tuple[str, ...]
    needs: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    #: Whether its lines come in an order of their own, each time.
    unordered: bool = False
    #: Files that are different each time by nature, by the beginning of their names.
    not_compared: tuple[str, ...] = ()
    limit: str = "64M"
    needs_root: bool = False
    #: C to compile to ``./program`` first, outside of any box.
    source: str = ""
    #: Why isolations cannot have it: it is left out there.
    not_in: tuple[str, ...] = ()


def _sh(script: str, shell: str = "sh") -> tuple[str, ...]:
    return (*shell.split(), "-c", script)


def _python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-I", "-S", "-c", code)


#: Children in the background end, and are waited for, while others are made.
_JOBS = """
for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do sleep 0.01 & done
for j in 1 2 3 4 5 6 7 8 9 10; do seq 30 | sort -r | head -n 1 >> out || exit 9; done
for k in 1 2 3; do mkdir -p d$k/e/f && (cd d$k/e && echo $k > f/g) || exit 8; done
wait
trap 'echo trapped' USR1; kill -USR1 $$
echo "$(echo nested $(echo twice))"
cat out | wc -l; rm -r d2
"""

_MAKEFILE = r"""
printf 'all: $(addprefix t,1 2 3 4 5 6 7 8 9 10 11 12)\n\techo done > all\nt%%: ; @:; mkdir -p out; echo $@ > out/$@; ls / >/dev/null\n' > Makefile
make -s -j4 && make -s -j2 all && cat all
"""

_GIT = """
export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1 GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a
export GIT_COMMITTER_EMAIL=a@b GIT_AUTHOR_DATE='2020-01-01T00:00:00Z' GIT_COMMITTER_DATE='2020-01-01T00:00:00Z'
git init -q -b main one && cd one || exit 1
for i in 1 2 3; do seq $((i * 100)) > f$i; git add . && git commit -q -m "number $i" || exit 2; done
git checkout -q -b side HEAD~1 && echo x > side && git add side && git commit -q -m side
git -c gc.auto=0 merge -q --no-edit main && git log --oneline --graph
cd .. && git clone -q one two && git -C two rev-parse HEAD && git -C two gc -q && git -C two fsck --no-progress
"""

_PERL_SIGNALS = r"""
use POSIX ":sys_wait_h"; use Time::HiRes qw(ualarm);
my ($ok, $bad, $ticks, %why) = (0, 0, 0);
# Handlers are run between two operations of perl, which natively crashes now and then without that.
my $reap = POSIX::SigAction->new(sub { local ($?, $!); 1 while waitpid(-1, WNOHANG) > 0 });
my $tick = POSIX::SigAction->new(sub { $ticks++ });
$_->safe(1) for $reap, $tick;
POSIX::sigaction(SIGCHLD, $reap);
POSIX::sigaction(SIGALRM, $tick);
ualarm(3000, 3000);
for (1 .. 100) {
    my $p = fork;
    if (!defined $p) { $bad++; $why{"fork $!"}++; next }
    exit 0 if !$p;
    $ok++;
    mkdir("d$_") or $why{"mkdir $!"}++;
    open(my $f, ">", "d$_/f") or $why{"open $!"}++;
    pipe(my $r, my $w) or $why{"pipe $!"}++;
}
ualarm(0);
print "forked $ok failed $bad ", join(",", %why), " ticked ", ($ticks > 0 ? "yes" : "no"), "\n";
exit 0;
"""

_SUBPROCESS = """
import subprocess, sys, threading
def one(number, found):
    found[number] = subprocess.run(["sh", "-c", f"cat; exit {number}"], input=b"x" * 9999, capture_output=True)
found = {}
threads = [threading.Thread(target=one, args=(n, found)) for n in range(12)]
for t in threads: t.start()
for t in threads: t.join()
print([(n, found[n].returncode, len(found[n].stdout)) for n in sorted(found)])
try: subprocess.run(["sleep", "10"], timeout=0.1)
except subprocess.TimeoutExpired: print("timed out")
"""

_ASYNCIO = """
import asyncio
async def serve(reader, writer):
    writer.write((await reader.readline()).upper()); await writer.drain(); writer.close()
async def ask(number):
    reader, writer = await asyncio.open_unix_connection("socket")
    writer.write(b"hello %d\\n" % number); said = await reader.readline(); writer.close(); return said
async def run(number):
    process = await asyncio.create_subprocess_exec("sh", "-c", f"echo {number}; exit 3", stdout=-1)
    return await process.communicate(), process.returncode
async def main():
    server = await asyncio.start_unix_server(serve, "socket")
    print(await asyncio.gather(*map(ask, range(20))))
    print(await asyncio.gather(*map(run, range(10))))
    await asyncio.wait_for(asyncio.to_thread(print, "thread"), 5)
    server.close()
asyncio.run(main())
"""

_MULTIPROCESSING = """
import multiprocessing as mp
context = mp.get_context("fork")
queue, lock, value = context.Queue(), context.Lock(), context.Value("i", 0)
def work(number):
    for _ in range(50):
        with value.get_lock(): value.value += 1
    queue.put(number)
workers = [context.Process(target=work, args=(n,)) for n in range(6)]
for one in workers: one.start()
print(sorted(queue.get() for _ in workers))
for one in workers: one.join()
with context.Pool(3) as pool: print(value.value, pool.map(abs, range(-20, 0)))
"""

_ITIMERS = """
import os, select, signal, socket, tempfile
ticks = 0
def tick(*_):
    global ticks; ticks += 1
signal.signal(signal.SIGALRM, tick); signal.siginterrupt(signal.SIGALRM, True)
signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
for number in range(80):
    reading, writing = os.pipe(); os.close(reading); os.close(writing)
    left, right = socket.socketpair(); left.close(); right.close()
    select.epoll().close()
    os.mkdir(f"d{number}"); open(f"d{number}/f", "w").close()
    pid = os.fork()
    if not pid: os._exit(0)
    os.waitpid(pid, 0)
signal.setitimer(signal.ITIMER_REAL, 0)
print("ticked", ticks > 0)
"""

_STATIC = r"""
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
static void *work(void *sum) { for (int i = 0; i < 1000; i++) __sync_fetch_and_add((int *)sum, 1); return NULL; }
int main(void)
{
	pthread_t threads[8];
	int sum = 0, pair[2], status;
	char text[6] = "";

	for (int i = 0; i < 8; i++) if (pthread_create(&threads[i], NULL, work, &sum)) return 1;
	for (int i = 0; i < 8; i++) pthread_join(threads[i], NULL);
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) || mkdir("made", 0700)) return 2;
	if (!fork()) { if (write(pair[1], "hello", 5) != 5) _exit(9); _exit(7); }
	if (read(pair[0], text, 5) != 5 || wait(&status) < 0) return 3;
	printf("%d %s %d\n", sum, text, WEXITSTATUS(status));
	return 4;
}
"""

SHORT = (
    Program("dash", _sh(_JOBS)),
    Program("bash", _sh(_JOBS, "bash"), ("bash",), ("bash",)),
    Program("busybox sh", _sh(_JOBS, "busybox sh"), ("busybox",), ("busybox-static",)),
    Program("xargs", _sh("seq 60 | xargs -n 3 -P 4 sh -c 'echo $1 $2 $3' x"), unordered=True),
    Program("make -j", _sh(_MAKEFILE), ("make",), ("make",)),
    Program("git", _sh(_GIT), ("git",), ("git",), not_compared=("one/.git", "two/.git")),
    Program(
        "tar",
        _sh(
            "mkdir -p t/u && seq 999 > t/a && seq 99 > t/u/b && ln -s a t/c && ln t/a t/d && mkfifo t/p && "
            "tar -czf t.tgz t && mkdir x && tar -xzf t.tgz -C x && tar -tzf t.tgz | sort && diff x/t/a t/a && "
            "rm t.tgz"
        ),
    ),
    Program("perl, handlers", ("perl", "-e", _PERL_SIGNALS), ("perl",), ("perl",)),
    Program("python subprocess", _python(_SUBPROCESS)),
    Program("python asyncio", _python(_ASYNCIO)),
    Program("python multiprocessing", _python(_MULTIPROCESSING)),
    Program("python itimers", _python(_ITIMERS)),
    Program("static program", ("./program",), source=_STATIC),
    Program(
        "strace",
        _sh(
            "strace -f -o trace -e trace=execve sh -c 'true; /bin/true; exit 3'; echo $?; grep -c execve trace"
        ),
        ("strace",),
        ("strace",),
        not_compared=("trace",),
        not_in=("none",),
    ),
    Program(
        "gdb",
        _sh(
            "HOME=$PWD gdb -q -nx -batch -ex 'set confirm off' -ex 'break exit' -ex run -ex 'kill' "
            "/bin/true 2>/dev/null | grep -c '^Breakpoint 1, '"
        ),
        ("gdb",),
        ("gdb",),
        not_in=("none",),
    ),
)

_C_PROJECT = """
for i in $(seq 12); do printf '#include <stdio.h>\\n#include <stdlib.h>\\nint f%d(void) { return printf("%d\\\\n"); }\\n' $i $i > f$i.c; done
{ for i in $(seq 12); do echo "int f$i(void);"; done; echo 'int main(void) {'; for i in $(seq 12); do echo "f$i();"; done; echo 'return 0; }'; } > main.c
seq 12 | xargs -P 4 -I{} gcc -O2 -c f{}.c && gcc -O2 -o main main.c f*.o && ./main && rm -f *.o main
"""

_POSTGRES = """
export LC_ALL=C PGHOST=$PWD; bin=$(ls -d /usr/lib/postgresql/*/bin | tail -n 1)
as() { if [ "$(id -u)" = 0 ]; then chown -R nobody . && su -s /bin/sh nobody -c "$1"; else sh -c "$1"; fi; }
as "$bin/initdb -D data -A trust >log 2>&1" || exit 1
as "$bin/pg_ctl -D data -w -l log -o '-k $PWD -h \\"\\"' start >/dev/null" || exit 2
as "$bin/createdb -h $PWD test && $bin/pgbench -h $PWD -i -q test >/dev/null 2>&1" || exit 3
as "$bin/pgbench -h $PWD -c 4 -j 2 -t 50 test 2>/dev/null" | grep 'processed'
as "$bin/psql -h $PWD -At -c 'select count(*) from pgbench_history' test"
as "$bin/pg_ctl -D data -w -m fast stop >/dev/null"; echo $?
"""

_REDIS = """
redis-server --port 0 --unixsocket $PWD/socket --save '' --dir $PWD --daemonize yes >/dev/null
for i in $(seq 50); do [ -S socket ] && break; sleep 0.1; done
for i in $(seq 20); do redis-cli -s socket set k$i $i >/dev/null & done; wait
redis-cli -s socket dbsize; redis-cli -s socket bgsave >/dev/null; sleep 0.5; ls dump.rdb
redis-cli -s socket shutdown nosave; rm -f dump.rdb
"""

_NGINX = """
mkdir www && echo it works > www/index.html
printf 'pid %s/pid; error_log stderr; worker_processes 2; daemon on; events { }
http { access_log off; client_body_temp_path b; proxy_temp_path p; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;
server { listen unix:%s/socket; root %s/www; } }' $PWD $PWD $PWD > conf
chmod 755 . www; nginx -e stderr -p $PWD -c $PWD/conf && curl -s --unix-socket socket http://x/ && nginx -e stderr -p $PWD -c $PWD/conf -s reload 2>/dev/null
sleep 0.3; curl -s --unix-socket socket http://x/ && nginx -e stderr -p $PWD -c $PWD/conf -s quit 2>/dev/null
for i in $(seq 50); do [ -e pid ] || break; sleep 0.1; done; rm -rf b p f u s socket
"""

_NODE = """
const { spawn } = require("child_process"), fs = require("fs"), { Worker } = require("worker_threads"), net = require("net");
const child = n => new Promise(r => spawn("sh", ["-c", `exit ${n}`]).on("exit", r));
const worker = n => new Promise(r => new Worker(`require("worker_threads").parentPort.postMessage(${n} * 2)`, { eval: true }).on("message", r));
(async () => {
  console.log((await Promise.all([1, 2, 3, 4, 5].map(child))).join());
  console.log((await Promise.all([1, 2, 3].map(worker))).join());
  fs.mkdirSync("made"); fs.writeFileSync("made/file", "x");
  const server = net.createServer(s => s.end("hello")).listen("socket", () =>
    net.connect("socket").on("data", d => console.log(String(d))).on("end", () => server.close()));
})();
"""

_JAVA = """
cat > Main.java <<'END'
import java.nio.file.*; import java.util.*; import java.util.concurrent.*;
public class Main { public static void main(String[] a) throws Exception {
  ExecutorService pool = Executors.newFixedThreadPool(6); List<Future<Integer>> all = new ArrayList<>();
  for (int i = 0; i < 20; i++) { int n = i; all.add(pool.submit(() -> new ProcessBuilder("sh", "-c", "exit " + n).start().waitFor())); }
  for (Future<Integer> one : all) System.out.print(one.get() + " "); pool.shutdown(); System.out.println();
  Files.createDirectory(Path.of("made")); byte[][] kept = new byte[64][]; for (int i = 0; i < 400; i++) kept[i % 64] = new byte[1 << 18];
} }
END
java -Xmx64m Main.java
"""

_GO = """
export HOME=$PWD GOCACHE=$PWD/.cache GOFLAGS=-mod=mod GO111MODULE=off
cat > main.go <<'END'
package main
import ("fmt"; "net"; "os"; "os/exec"; "sync")
func main() {
	var wait sync.WaitGroup; sums := make([]int, 50)
	for i := range sums { wait.Add(1); go func(i int) { defer wait.Done(); for j := 0; j < 1000; j++ { sums[i] += j }; if i % 5 == 0 { if exec.Command("true").Run() != nil { os.Exit(3) } } }(i) }
	wait.Wait(); server, _ := net.Listen("unix", "socket"); go func() { c, _ := server.Accept(); c.Write([]byte("hello")); c.Close() }()
	c, _ := net.Dial("unix", "socket"); text := make([]byte, 5); c.Read(text); fmt.Println(sums[49], string(text)); os.Mkdir("made", 0755)
}
END
go build -o main main.go && ./main; status=$?; chmod -R u+w .cache; rm -rf .cache main socket; exit $status
"""

_RUST = """
cat > main.rs <<'END'
use std::{fs, process::Command, sync::mpsc, thread};
fn main() {
    let (send, receive) = mpsc::channel();
    for n in 0..10 { let send = send.clone(); thread::spawn(move || { let s = Command::new("sh").arg("-c").arg(format!("exit {n}")).status().unwrap(); send.send(s.code().unwrap()).unwrap(); }); }
    drop(send); let mut all: Vec<i32> = receive.iter().collect(); all.sort(); fs::create_dir("made").unwrap(); println!("{all:?}");
}
END
rustc -O main.rs && ./main; status=$?; rm -f main; exit $status
"""

_TMUX = """
tmux -L $$ -f /dev/null new-session -d -x 80 -y 24 'echo in tmux > out; tty >/dev/null && echo a tty >> out; exec sh' || exit 1
tmux -L $$ split-window 'sleep 30'; sleep 0.3; tmux -L $$ list-panes | wc -l; tmux -L $$ kill-server; cat out
"""

_CHROMIUM = """
echo '<title>t</title><p id=p>before<script>document.getElementById("p").textContent = "after"</script>' > page.html
HOME=$PWD timeout 60 chromium --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --user-data-dir=$PWD/profile --dump-dom file://$PWD/page.html 2>/dev/null | grep -o '>after'
rm -rf profile .cache .config .pki .local
"""

LONG = (
    Program("gcc", _sh(_C_PROJECT), ("gcc",), ("gcc", "libc6-dev"), unordered=True),
    Program("node", ("node", "-e", _NODE), ("node",), ("nodejs",), limit="256M"),
    Program("java", _sh(_JAVA), ("java",), ("openjdk-17-jdk-headless",), limit="256M"),
    Program("go", _sh(_GO), ("go",), ("golang-go",), limit="256M"),
    Program("rust", _sh(_RUST), ("rustc",), ("rustc",), limit="256M"),
    Program(
        "postgresql",
        _sh(_POSTGRES),
        ("su",),
        ("postgresql",),
        not_compared=("data", "log"),
        limit="256M",
    ),
    Program("redis", _sh(_REDIS), ("redis-server",), ("redis-server",), limit="64M"),
    Program(
        "nginx", _sh(_NGINX), ("nginx", "curl"), ("nginx-light", "curl"), not_compared=("conf",)
    ),
    Program(
        "sqlite",
        _sh(
            'for i in $(seq 200); do echo "insert into t values ($i, hex($i));"; done > rows; '
            "sqlite3 db 'create table t (a integer primary key, b text);' && "
            "{ echo 'begin;'; cat rows; echo 'commit;'; } | sqlite3 db && sqlite3 db 'select sum(a), max(b) from t; vacuum;'"
        ),
        ("sqlite3",),
        ("sqlite3",),
    ),
    Program(
        "rsync",
        _sh(
            "mkdir -p a/b/c && seq 5000 > a/x && seq 500 > a/b/c/y && rsync -a a/ d/ && echo z >> a/x && "
            "rsync -ai --no-t --out-format=%n a/ d/ && diff -r a d"
        ),
        ("rsync",),
        ("rsync",),
    ),
    Program("tmux", _sh(_TMUX), ("tmux",), ("tmux",)),
    Program("chromium", _sh(_CHROMIUM), ("chromium",), ("chromium",), limit="1G"),
    Program(
        "bubblewrap",
        _sh(
            "bwrap --ro-bind / / --dev /dev --proc /proc --tmpfs /tmp --unshare-pid --die-with-parent "
            "sh -c 'echo $$; ls /tmp | wc -l; sleep 0.1 & wait; exit 5'"
        ),
        ("bwrap",),
        ("bubblewrap",),
        not_in=("none",),
    ),
    Program(
        "apt",
        _sh("apt-get -qq -s install coreutils | wc -l; dpkg -s coreutils | head -n 2"),
        ("apt-get",),
        ("apt",),
    ),
    Program(
        "sudo",
        _sh("sudo -n id -u && sudo -n -u nobody id -un && su -s /bin/sh -c 'id -un' nobody"),
        ("sudo", "su"),
        ("sudo",),
        needs_root=True,
        not_in=("user",),
    ),
)
