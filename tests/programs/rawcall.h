/*
 * System calls and threads without libc: no errno, no thread-local storage, so a thread made here may use the same one
 * as its maker. Kernel convention: a result from -4095 to -1 is a negative errno. x86_64 and aarch64.
 */
#ifndef RAWCALL_H
#define RAWCALL_H

#include <sys/syscall.h>

#define STACK_BYTES 16384

#if defined(__x86_64__)
#define RAW_CALL "syscall\n\t"
#define IF_CHILD_RUN "test %%rax, %%rax\n\tjnz 1f\n\txor %%ebp, %%ebp\n\tcall *%[run]\n1:"
#define RAW_NUMBER(name, value) register long name __asm__("rax") = (value)
#define RAW_ARGUMENTS(a, b, c, d, e)                                                                          \
	register long arg0 __asm__("rdi") = (a);                                                              \
	register long arg1 __asm__("rsi") = (b);                                                              \
	register long arg2 __asm__("rdx") = (c);                                                              \
	register long arg3 __asm__("r10") = (d);                                                              \
	register long arg4 __asm__("r8") = (e)
#define RAW_RESULT nr
#define RAW_OUT "+r"(nr)
#define RAW_IN "r"(arg0), "r"(arg1), "r"(arg2), "r"(arg3), "r"(arg4)
#define RAW_CLOBBERS "rcx", "r11", "memory", "cc"
#elif defined(__aarch64__)
#define RAW_CALL "svc #0\n\t"
#define IF_CHILD_RUN "cbnz x0, 1f\n\tmov x29, #0\n\tblr %[run]\n1:"
#define RAW_NUMBER(name, value) register long name __asm__("x8") = (value)
#define RAW_ARGUMENTS(a, b, c, d, e)                                                                          \
	register long arg0 __asm__("x0") = (a);                                                               \
	register long arg1 __asm__("x1") = (b);                                                               \
	register long arg2 __asm__("x2") = (c);                                                               \
	register long arg3 __asm__("x3") = (d);                                                               \
	register long arg4 __asm__("x4") = (e)
#define RAW_RESULT arg0
#define RAW_OUT "+r"(arg0)
#define RAW_IN "r"(nr), "r"(arg1), "r"(arg2), "r"(arg3), "r"(arg4)
#define RAW_CLOBBERS "memory", "cc"
#else
#error "rawcall.h knows x86_64 and aarch64"
#endif

static inline long raw_call(long number, long a, long b, long c, long d, long e)
{
	RAW_NUMBER(nr, number);
	RAW_ARGUMENTS(a, b, c, d, e);

	__asm__ volatile(RAW_CALL : RAW_OUT : RAW_IN : RAW_CLOBBERS);
	return RAW_RESULT;
}

/* clone or clone3 with a stack of its own: the child calls run, which must not return, and nothing else. */
static inline long raw_spawn(long number, long a, long b, void (*run)(void))
{
	RAW_NUMBER(nr, number);
	RAW_ARGUMENTS(a, b, 0, 0, 0);

	__asm__ volatile(RAW_CALL IF_CHILD_RUN : RAW_OUT : RAW_IN, [run] "r"(run) : RAW_CLOBBERS);
	return RAW_RESULT;
}

static inline void raw_nap_us(long microseconds)
{
	long left[2] = {microseconds / 1000000, microseconds % 1000000 * 1000};

	raw_call(SYS_nanosleep, (long)left, 0, 0, 0, 0);
}

static inline _Noreturn void raw_exit(void)
{
	for (;;)
		raw_call(SYS_exit, 0, 0, 0, 0, 0);
}

#endif
