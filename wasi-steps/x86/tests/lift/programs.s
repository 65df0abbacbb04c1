# What gcc 12.2 -O2 -fPIC -mpopcnt makes of small integer programs (programs.c), all in one section.
	.text
	.p2align 4
	.globl p_mix
p_mix:
	salq	$5, %rsi
	movzbl	%cl, %ecx
	movl	%edx, %edx
	movabsq	$-7046029254386353131, %rax
	xorq	%rdi, %rsi
	subq	%rcx, %rdx
	imulq	%rax, %rsi
	leaq	(%rsi,%rdx), %rax
	ret
	.p2align 4
	.globl p_cmp
p_cmp:
	testq	%rdx, %rdx
	je	.L6
	xorl	%eax, %eax
	jmp	.L5
	.p2align 4,,10
	.p2align 3
.L10:
	cmpb	%cl, %r8b
	jb	.L8
	addq	$1, %rax
	cmpq	%rax, %rdx
	je	.L6
.L5:
	movzbl	(%rdi,%rax), %ecx
	movzbl	(%rsi,%rax), %r8d
	cmpb	%r8b, %cl
	jnb	.L10
	movl	$-1, %eax
	ret
	.p2align 4,,10
	.p2align 3
.L6:
	xorl	%eax, %eax
	ret
	.p2align 4,,10
	.p2align 3
.L8:
	movl	$1, %eax
	ret
	.p2align 4
	.globl p_qs
p_qs:
	cmpq	%rdx, %rsi
	jge	.L35
	pushq	%r12
	movq	%rsi, %r10
	movq	%rdi, %r12
	pushq	%rbp
	movq	%rdx, %rbp
	pushq	%rbx
.L12:
	leaq	0(%rbp,%r10), %rdx
	movq	%r10, %rbx
	movq	%rdx, %rax
	shrq	$63, %rax
	addq	%rdx, %rax
	movq	%rbp, %rdx
	sarq	%rax
	movl	(%r12,%rax,4), %esi
	.p2align 4,,10
	.p2align 3
.L17:
	cmpq	%rdx, %rbx
	jg	.L18
.L37:
	leaq	0(,%rbx,4), %rax
	leaq	0(,%rdx,4), %r11
	leaq	(%r12,%rax), %r8
	leaq	(%r12,%r11), %r9
	movl	(%r8), %ecx
	movl	(%r9), %edi
	leaq	4(%r12,%rax), %rax
	cmpl	%esi, %ecx
	jge	.L36
	.p2align 4,,10
	.p2align 3
.L14:
	movq	%rax, %r8
	movl	(%rax), %ecx
	addq	$4, %rax
	addq	$1, %rbx
	cmpl	%esi, %ecx
	jl	.L14
	cmpl	%edi, %esi
	jge	.L15
.L22:
	leaq	-4(%r12,%r11), %rax
	.p2align 4,,10
	.p2align 3
.L16:
	movq	%rax, %r9
	movl	(%rax), %edi
	subq	$4, %rax
	subq	$1, %rdx
	cmpl	%esi, %edi
	jg	.L16
.L15:
	cmpq	%rbx, %rdx
	jl	.L17
	movl	%edi, (%r8)
	addq	$1, %rbx
	subq	$1, %rdx
	movl	%ecx, (%r9)
.L39:
	cmpq	%rdx, %rbx
	jle	.L37
.L18:
	movq	%r10, %rsi
	movq	%r12, %rdi
	call	p_qs
	cmpq	%rbp, %rbx
	jge	.L38
	movq	%rbx, %r10
	jmp	.L12
	.p2align 4,,10
	.p2align 3
.L36:
	cmpl	%edi, %esi
	jl	.L22
	movl	%edi, (%r8)
	addq	$1, %rbx
	subq	$1, %rdx
	movl	%ecx, (%r9)
	jmp	.L39
.L38:
	popq	%rbx
	popq	%rbp
	popq	%r12
	ret
.L35:
	ret
	.p2align 4
	.globl p_f0
p_f0:
	leaq	(%rdi,%rsi), %rax
	ret
	.p2align 4
	.globl p_f1
p_f1:
	movq	%rdi, %rax
	imulq	%rsi, %rax
	ret
	.p2align 4
	.globl p_f2
p_f2:
	movq	%rsi, %rax
	shrq	$3, %rax
	xorq	%rdi, %rax
	ret
	.p2align 4
	.globl p_f3
p_f3:
	movq	%rdi, %rdx
	movq	%rsi, %rax
	subq	%rsi, %rdx
	cmpq	%rdi, %rsi
	cmovb	%rdx, %rax
	ret
	.p2align 4
	.globl	p_fib
	.globl p_fib
p_fib:
	pushq	%r15
	pushq	%r14
	pushq	%r13
	movq	%rdi, %r13
	pushq	%r12
	pushq	%rbp
	pushq	%rbx
	subq	$168, %rsp
	cmpq	$1, %rdi
	jbe	.L46
	leaq	-1(%rdi), %rbp
	xorl	%ebx, %ebx
	movq	%rbp, %r14
.L78:
	cmpq	$1, %r14
	je	.L103
	leaq	-1(%r14), %rbp
	xorl	%eax, %eax
	movq	%rbx, 48(%rsp)
	movq	%rbp, 56(%rsp)
	movq	%rax, %rbx
	movq	%rbp, %r13
.L76:
	cmpq	$1, %r13
	je	.L101
	leaq	-1(%r13), %rdx
	xorl	%r15d, %r15d
	movq	%r14, 64(%rsp)
	movq	%rdx, %rbp
	movq	%r15, %r14
	movq	%rdx, %rcx
	movq	%r13, %r15
.L73:
	cmpq	$1, %rbp
	je	.L100
	movq	%rbx, 72(%rsp)
	leaq	-1(%rbp), %rdi
	xorl	%r13d, %r13d
	movq	%r15, %rax
	movq	%r14, 80(%rsp)
	movq	%rdi, %r12
	movq	%rcx, %rsi
	movq	%rbp, 88(%rsp)
.L70:
	cmpq	$1, %r12
	je	.L99
	movq	%rdi, 96(%rsp)
	leaq	-1(%r12), %r11
	movq	%rsi, %r9
	xorl	%r15d, %r15d
	movq	%r13, %rsi
	movq	%r11, %r14
	movq	%rax, %r10
	movq	%r12, %r13
.L67:
	cmpq	$1, %r14
	je	.L98
	leaq	-1(%r14), %rbp
	xorl	%r12d, %r12d
	movq	%rbp, %rbx
.L64:
	cmpq	$1, %rbx
	je	.L91
	leaq	-1(%rbx), %rdx
	leaq	-2(%rbx), %rdi
	movq	%rdx, %rax
	movq	%rdi, %rcx
	andq	$-2, %rax
	subq	%rax, %rcx
	xorl	%eax, %eax
	movq	%rcx, 40(%rsp)
	movq	%rax, %r8
	movq	%rdi, %rax
	.p2align 4,,10
	.p2align 3
.L61:
	cmpq	%rax, 40(%rsp)
	je	.L53
	movq	%rdx, 24(%rsp)
	movq	%rax, %rdx
	movq	%rsi, 8(%rsp)
	movq	%rbp, %rsi
	movq	%rbx, %rbp
	movq	%r8, 16(%rsp)
	movq	%rdi, %r8
	movq	$0, (%rsp)
	movq	%rax, 32(%rsp)
	cmpq	$1, %rdx
	je	.L96
.L104:
	movq	%rdx, %rbx
	xorl	%ecx, %ecx
.L55:
	leaq	-1(%rbx), %rdi
	movq	%rdx, 152(%rsp)
	subq	$2, %rbx
	movq	%r8, 144(%rsp)
	movq	%rsi, 136(%rsp)
	movq	%r11, 128(%rsp)
	movq	%r9, 120(%rsp)
	movq	%r10, 112(%rsp)
	movq	%rcx, 104(%rsp)
	call	p_fib.localalias
	movq	104(%rsp), %rcx
	movq	112(%rsp), %r10
	movq	120(%rsp), %r9
	movq	128(%rsp), %r11
	addq	%rax, %rcx
	cmpq	$1, %rbx
	movq	136(%rsp), %rsi
	movq	144(%rsp), %r8
	movq	152(%rsp), %rdx
	ja	.L55
	movq	(%rsp), %rax
	movq	%rdx, %rdi
	leaq	-2(%rdx), %rbx
	andl	$1, %edi
	addq	%rax, %rdi
	leaq	(%rdi,%rcx), %rax
	movq	%rax, (%rsp)
	cmpq	$2, %rdx
	je	.L96
	movq	%rbx, %rdx
	cmpq	$1, %rdx
	jne	.L104
.L96:
	movq	(%rsp), %rcx
	movq	%rbp, %rbx
	movq	32(%rsp), %rax
	movq	%r8, %rdi
	movq	16(%rsp), %r8
	subq	$2, %rbx
	movq	%rsi, %rbp
	movq	24(%rsp), %rdx
	addq	$1, %rcx
	movq	8(%rsp), %rsi
	subq	$2, %rax
	addq	%rcx, %r8
	cmpq	$1, %rbx
	ja	.L61
	movq	%r8, %rax
	addq	%rbx, %rax
	addq	%rax, %r12
	cmpq	$1, %rdx
	jne	.L80
.L91:
	addq	$1, %r12
	subq	$2, %r14
	addq	%r12, %r15
	cmpq	$1, %rbp
	jne	.L67
.L98:
	movq	%r13, %r12
	addq	$1, %r15
	movq	%rsi, %r13
	movq	96(%rsp), %rdi
	movq	%r10, %rax
	movq	%r9, %rsi
	addq	%r15, %r13
	subq	$2, %r12
	cmpq	$1, %r11
	jne	.L70
.L99:
	movq	80(%rsp), %r14
	movq	88(%rsp), %rbp
	movq	%rax, %r15
	movq	%rsi, %rcx
	addq	$1, %r13
	movq	72(%rsp), %rbx
	addq	%r13, %r14
	subq	$2, %rbp
	cmpq	$1, %rdi
	jne	.L73
.L100:
	movq	%r15, %r13
	movq	%r14, %r15
	movq	64(%rsp), %r14
	addq	$1, %r15
	subq	$2, %r13
	addq	%r15, %rbx
	cmpq	$1, %rcx
	jne	.L76
.L101:
	movq	%rbx, %rax
	movq	56(%rsp), %rbp
	movq	48(%rsp), %rbx
	subq	$2, %r14
	addq	$1, %rax
	addq	%rax, %rbx
	cmpq	$1, %rbp
	jne	.L78
.L103:
	movq	%rbx, %r13
	addq	$1, %r13
.L46:
	addq	$168, %rsp
	movq	%r13, %rax
	popq	%rbx
	popq	%rbp
	popq	%r12
	popq	%r13
	popq	%r14
	popq	%r15
	ret
	.p2align 4,,10
	.p2align 3
.L53:
	leaq	-1(%rbx,%r8), %rax
	addq	%rax, %r12
	cmpq	$1, %rdx
	je	.L91
.L80:
	movq	%rdi, %rbx
	jmp	.L64
	.set	p_fib.localalias,p_fib
	.p2align 4
	.globl	p_xorshift
	.globl p_xorshift
p_xorshift:
	testq	%rdi, %rdi
	je	.L108
	movabsq	$88172645463325252, %rax
	xorl	%ecx, %ecx
	xorl	%esi, %esi
	.p2align 4,,10
	.p2align 3
.L107:
	movq	%rax, %rdx
	addq	$1, %rcx
	salq	$13, %rdx
	xorq	%rdx, %rax
	movq	%rax, %rdx
	shrq	$7, %rdx
	xorq	%rax, %rdx
	movq	%rdx, %rax
	salq	$17, %rax
	xorq	%rdx, %rax
	addq	%rax, %rsi
	cmpq	%rcx, %rdi
	jne	.L107
	movq	%rsi, %rax
	ret
	.p2align 4,,10
	.p2align 3
.L108:
	xorl	%esi, %esi
	movq	%rsi, %rax
	ret
	.p2align 4
	.globl	p_collatz
	.globl p_collatz
p_collatz:
	movl	$1, %ecx
	xorl	%esi, %esi
	cmpq	$1, %rdi
	jbe	.L110
	addq	$1, %rcx
	cmpq	%rcx, %rdi
	je	.L110
	.p2align 4,,10
	.p2align 3
.L117:
	movq	%rcx, %rax
	xorl	%edx, %edx
	jmp	.L115
	.p2align 4,,10
	.p2align 3
.L121:
	leaq	1(%rax,%rax,2), %rax
	addq	$1, %rdx
	cmpq	$1, %rax
	je	.L120
.L115:
	testb	$1, %al
	jne	.L121
	shrq	%rax
	addq	$1, %rdx
	cmpq	$1, %rax
	jne	.L115
.L120:
	cmpq	%rdx, %rsi
	cmovb	%rdx, %rsi
	addq	$1, %rcx
	cmpq	%rcx, %rdi
	jne	.L117
.L110:
	movq	%rsi, %rax
	ret
	.p2align 4
	.globl	p_switch
	.globl p_switch
p_switch:
	testq	%rdi, %rdi
	je	.L139
	pushq	%rbp
	movq	%rdi, %r10
	movq	%rsi, %r11
	xorl	%edi, %edi
	pushq	%rbx
	xorl	%esi, %esi
	movl	$2, %ebx
	movl	$1, %r8d
	movabsq	$5675921253449092805, %rbp
	leaq	.L126(%rip), %r9
	.p2align 4,,10
	.p2align 3
.L138:
	movq	%rsi, %rcx
	shrq	$3, %rcx
	addq	%rdi, %rcx
	movq	%rcx, %rax
	mulq	%rbp
	shrq	$2, %rdx
	leaq	(%rdx,%rdx,2), %rax
	leaq	(%rdx,%rax,4), %rax
	subq	%rax, %rcx
	cmpq	$10, %rcx
	ja	.L124
	movslq	(%r9,%rcx,4), %rax
	addq	%r9, %rax
	jmp	*%rax
	.align 4
	.align 4
.L126:
	.long	.L136-.L126
	.long	.L135-.L126
	.long	.L134-.L126
	.long	.L133-.L126
	.long	.L132-.L126
	.long	.L131-.L126
	.long	.L130-.L126
	.long	.L129-.L126
	.long	.L128-.L126
	.long	.L127-.L126
	.long	.L125-.L126
	.p2align 4,,10
	.p2align 3
.L127:
	andl	$16777215, %ebx
	.p2align 4,,10
	.p2align 3
.L137:
	movzbl	%sil, %eax
	addq	$1, %rsi
	addq	$7, %rdi
	movb	%r8b, (%r11,%rax)
	cmpq	%rsi, %r10
	jne	.L138
	movq	%r8, %rax
	xorq	%rbx, %rax
	popq	%rbx
	popq	%rbp
	ret
	.p2align 4,,10
	.p2align 3
.L128:
	orq	$85, %r8
	jmp	.L137
	.p2align 4,,10
	.p2align 3
.L129:
	notq	%rbx
	jmp	.L137
	.p2align 4,,10
	.p2align 3
.L130:
	negq	%r8
	jmp	.L137
	.p2align 4,,10
	.p2align 3
.L131:
	salq	$2, %rbx
	jmp	.L137
	.p2align 4,,10
	.p2align 3
.L132:
	sarq	%r8
	jmp	.L137
	.p2align 4,,10
	.p2align 3
.L133:
	subq	%rsi, %rbx
	jmp	.L137
	.p2align 4,,10
	.p2align 3
.L134:
	leaq	(%r8,%r8,2), %r8
	jmp	.L137
	.p2align 4,,10
	.p2align 3
.L135:
	xorq	%r8, %rbx
	jmp	.L137
	.p2align 4,,10
	.p2align 3
.L136:
	addq	%rbx, %r8
	jmp	.L137
	.p2align 4,,10
	.p2align 3
.L125:
	cmpq	%rbx, %r8
	cmovg	%rbx, %r8
	jmp	.L137
.L124:
	subq	$5, %r8
	jmp	.L137
	.p2align 4,,10
	.p2align 3
.L139:
	movl	$3, %eax
	ret
	.p2align 4
	.globl	p_gcd
	.globl p_gcd
p_gcd:
	pushq	%r15
	xorl	%esi, %esi
	pushq	%r14
	pushq	%r13
	pushq	%r12
	pushq	%rbp
	pushq	%rbx
	movq	%rdi, -8(%rsp)
	cmpq	$1, %rdi
	jbe	.L145
	movl	$1, %r8d
	movl	$104729, %edi
	xorl	%esi, %esi
	movl	$7919, %ebp
	movl	$1000003, %r11d
	movl	$21, %r14d
	movq	%r8, %r9
.L146:
	leaq	1(%r9), %r8
	cmpq	%r14, %r9
	jnb	.L151
	movl	$-3, %r12d
	movl	%r9d, %r10d
	leaq	1(%r9), %r8
	movl	%r9d, %r15d
	imull	%r9d, %r10d
	subl	%r9d, %r12d
	cmpq	%r8, %r14
	movq	%r14, -16(%rsp)
	sbbq	%rax, %rax
	movq	%rdi, %rbx
	andq	$-19, %rax
	leaq	20(%r9,%rax), %r13
	.p2align 4,,10
	.p2align 3
.L149:
	movq	%rbx, %rdx
	movq	%rbp, %rax
	.p2align 4,,10
	.p2align 3
.L148:
	movq	%rdx, %r14
	movq	%rdx, %rcx
	xorl	%edx, %edx
	divq	%r14
	movq	%r14, %rax
	testq	%rdx, %rdx
	jne	.L148
	movl	%r10d, %eax
	addq	$104729, %rbx
	addl	%r15d, %r10d
	cltd
	idivl	%r12d
	xorl	%edx, %edx
	movslq	%eax, %r14
	movl	%r11d, %eax
	divl	%r9d
	addq	$1, %r9
	addq	%rdx, %r14
	addq	%rsi, %r14
	leaq	(%r14,%rcx), %rsi
	cmpq	%r9, %r13
	jne	.L149
	movq	-16(%rsp), %r14
.L151:
	movq	%r8, %r9
	addq	$1, %r14
	addl	$1000003, %r11d
	addq	$7919, %rbp
	addq	$104729, %rdi
	cmpq	%r8, -8(%rsp)
	jne	.L146
.L145:
	popq	%rbx
	movq	%rsi, %rax
	popq	%rbp
	popq	%r12
	popq	%r13
	popq	%r14
	popq	%r15
	ret
	.p2align 4
	.globl	p_sieve
	.globl p_sieve
p_sieve:
	testq	%rdi, %rdi
	je	.L157
	movq	%rsi, %rax
	leaq	(%rsi,%rdi), %rdx
	.p2align 4,,10
	.p2align 3
.L158:
	movb	$1, (%rax)
	addq	$1, %rax
	cmpq	%rdx, %rax
	jne	.L158
	cmpq	$2, %rdi
	jbe	.L157
	movl	$2, %edx
	xorl	%ecx, %ecx
	jmp	.L162
	.p2align 4,,10
	.p2align 3
.L159:
	addq	$1, %rdx
	cmpq	%rdx, %rdi
	je	.L156
.L162:
	cmpb	$0, (%rsi,%rdx)
	je	.L159
	movq	%rdx, %rax
	addq	$1, %rcx
	imulq	%rdx, %rax
	cmpq	%rdi, %rax
	jnb	.L159
	.p2align 4,,10
	.p2align 3
.L161:
	movb	$0, (%rsi,%rax)
	addq	%rdx, %rax
	cmpq	%rdi, %rax
	jb	.L161
	addq	$1, %rdx
	cmpq	%rdx, %rdi
	jne	.L162
.L156:
	movq	%rcx, %rax
	ret
.L157:
	xorl	%ecx, %ecx
	movq	%rcx, %rax
	ret
	.p2align 4
	.globl	p_hash
	.globl p_hash
p_hash:
	testq	%rdi, %rdi
	je	.L176
	pushq	%rbp
	movq	%rdi, %r11
	movq	%rsi, %r8
	movl	$5, %edi
	movabsq	$217020518514230019, %r9
	pushq	%rbx
	xorl	%ebx, %ebx
	movabsq	$-6148914691236517205, %r10
	.p2align 4,,10
	.p2align 3
.L175:
	movl	%edi, %edx
	movq	%rbx, %rsi
	movzbl	%bl, %ecx
	call	p_mix
	movq	%rax, %rdi
	movq	%rax, %rsi
	jmp	.L183
	.p2align 4,,10
	.p2align 3
.L184:
	movq	%rcx, %rax
	mulq	%r10
	movq	%rdx, %rax
	andq	$-2, %rdx
	shrq	%rax
	addq	%rax, %rdx
	subq	%rdx, %rcx
	cmpq	$1, %rcx
	jne	.L173
	addq	$1, %rsi
.L183:
	andl	$1023, %esi
	leaq	(%r8,%rsi,8), %rbp
	movq	0(%rbp), %rcx
	cmpq	%r9, %rcx
	jne	.L184
.L173:
	addq	$1, %rbx
	movq	%rdi, 0(%rbp)
	cmpq	%rbx, %r11
	jne	.L175
	movq	%rdi, %rax
	popq	%rbx
	popq	%rbp
	ret
.L176:
	movl	$5, %eax
	ret
	.p2align 4
	.globl	p_bytes
	.globl p_bytes
p_bytes:
	testq	%rdi, %rdi
	je	.L190
	pushq	%rbp
	movq	%rdi, %r10
	movq	%rsi, %r9
	xorl	%edi, %edi
	pushq	%rbx
	xorl	%esi, %esi
	xorl	%r8d, %r8d
	xorl	%eax, %eax
	movl	$1, %edx
	movl	$2147975281, %r11d
	.p2align 4,,10
	.p2align 3
.L189:
	movq	%rsi, %rcx
	andl	$511, %ecx
	addq	%r9, %rcx
	movzbl	(%rcx), %ebx
	addl	%esi, %ebx
	movb	%bl, (%rcx)
	leaq	(%rsi,%rsi,2), %rcx
	xorl	%ebx, %r8d
	andl	$511, %ecx
	movzbl	(%r9,%rcx), %ecx
	addl	%ecx, %edx
	movq	%rdx, %rcx
	imulq	%r11, %rdx
	shrq	$47, %rdx
	imull	$65521, %edx, %ebp
	movl	%ecx, %edx
	subl	%ebp, %edx
	addl	%edx, %eax
	movl	%eax, %eax
	movq	%rax, %rcx
	imulq	%r11, %rax
	shrq	$47, %rax
	imull	$65521, %eax, %ebp
	movl	%ecx, %eax
	movsbw	%r8b, %cx
	addl	%edi, %ecx
	xorl	%edi, %edi
	subl	%ebp, %eax
	cmpb	$-5, %r8b
	setl	%dil
	subl	%edi, %ecx
	movl	%ecx, %edi
	xorw	$273, %di
	cmpb	$-56, %bl
	cmovbe	%ecx, %edi
	addq	$1, %rsi
	cmpq	%rsi, %r10
	jne	.L189
	salq	$32, %rax
	movswq	%di, %rdi
	popq	%rbx
	popq	%rbp
	orq	%rdx, %rax
	movsbq	%r8b, %rdx
	addq	%rdx, %rax
	addq	%rdi, %rax
	ret
	.p2align 4,,10
	.p2align 3
.L190:
	movl	$1, %eax
	ret
	.p2align 4
	.globl	p_sha256
	.globl p_sha256
p_sha256:
	pushq	%r15
	movq	%rdi, %rax
	pushq	%r14
	pushq	%r13
	pushq	%r12
	pushq	%rbp
	pushq	%rbx
	movabsq	$4354685563809803909, %rbx
	subq	$232, %rsp
	movq	%rbx, -52(%rsp)
	movabsq	$5840696474933916986, %rbx
	movq	%rbx, -44(%rsp)
	movabsq	$2270897968188319884, %rbx
	movq	%rdi, -72(%rsp)
	movq	%rsi, %rdi
	movq	%rbx, -36(%rsp)
	movl	$1541459225, -28(%rsp)
	testq	%rax, %rax
	je	.L211
	movl	$1541459225, -92(%rsp)
	xorl	%eax, %eax
	leaq	168(%rsp), %r13
	leaq	-24(%rsp), %r14
	movl	$528734635, -96(%rsp)
	leaq	K(%rip), %r15
	movq	%rax, %rdi
	movl	$-1694144372, -100(%rsp)
	movl	$1359893119, -104(%rsp)
	movl	$-1521486534, -108(%rsp)
	movl	$1013904242, -112(%rsp)
	movl	$-1150833019, -116(%rsp)
	movl	$1779033703, -120(%rsp)
	movq	%r13, -64(%rsp)
	movq	%rsi, %r13
	.p2align 4,,10
	.p2align 3
.L197:
	movl	%edi, %ecx
	xorl	%edx, %edx
	.p2align 4,,10
	.p2align 3
.L199:
	movl	0(%r13,%rdx), %eax
	bswap	%eax
	addl	%ecx, %eax
	movl	%eax, (%r14,%rdx)
	addq	$4, %rdx
	cmpq	$64, %rdx
	jne	.L199
	movq	-64(%rsp), %r8
	movq	%r14, %rdx
	.p2align 4,,10
	.p2align 3
.L200:
	movl	4(%rdx), %ecx
	movl	56(%rdx), %esi
	addq	$4, %rdx
	movl	%ecx, %eax
	movl	%ecx, %r9d
	shrl	$3, %ecx
	roll	$14, %r9d
	rorl	$7, %eax
	xorl	%r9d, %eax
	movl	%esi, %r9d
	xorl	%ecx, %eax
	movl	32(%rdx), %ecx
	addl	-4(%rdx), %ecx
	roll	$13, %r9d
	addl	%ecx, %eax
	movl	%esi, %ecx
	shrl	$10, %esi
	roll	$15, %ecx
	xorl	%r9d, %ecx
	xorl	%esi, %ecx
	addl	%ecx, %eax
	movl	%eax, 60(%rdx)
	cmpq	%rdx, %r8
	jne	.L200
	movl	-92(%rsp), %eax
	movl	-96(%rsp), %ebx
	movq	%rdi, -88(%rsp)
	xorl	%r8d, %r8d
	movq	%r13, -80(%rsp)
	movl	-100(%rsp), %ebp
	movl	$1116352408, %r12d
	movl	-104(%rsp), %ecx
	movl	-108(%rsp), %r9d
	movl	-112(%rsp), %r10d
	movl	-116(%rsp), %r11d
	movl	-120(%rsp), %esi
	jmp	.L202
	.p2align 4,,10
	.p2align 3
.L212:
	movl	(%r15,%r8), %r12d
	movl	%ebx, %eax
	movl	%ebp, %ebx
	movl	%ecx, %ebp
	movl	%r9d, %ecx
	movl	%r10d, %r9d
	movl	%r11d, %r10d
	movl	%esi, %r11d
	movl	%edx, %esi
.L202:
	movl	%ecx, %edi
	movl	%ecx, %edx
	movl	%ecx, %r13d
	rorl	$6, %edi
	rorl	$11, %edx
	andl	%ebp, %r13d
	xorl	%edi, %edx
	movl	%ecx, %edi
	roll	$7, %edi
	xorl	%edi, %edx
	movl	%ecx, %edi
	notl	%edi
	andl	%ebx, %edi
	xorl	%r13d, %edi
	addl	%edi, %edx
	addl	(%r14,%r8), %edx
	movl	%esi, %edi
	addq	$4, %r8
	addl	%eax, %edx
	movl	%esi, %eax
	rorl	$13, %edi
	rorl	$2, %eax
	addl	%r12d, %edx
	movl	%r11d, %r12d
	xorl	%edi, %eax
	movl	%esi, %edi
	andl	%r10d, %r12d
	addl	%edx, %r9d
	roll	$10, %edi
	xorl	%edi, %eax
	movl	%r11d, %edi
	xorl	%r10d, %edi
	andl	%esi, %edi
	xorl	%r12d, %edi
	addl	%edi, %eax
	addl	%eax, %edx
	cmpq	$256, %r8
	jne	.L212
	movq	-88(%rsp), %rdi
	addl	%edx, -120(%rsp)
	addl	%esi, -116(%rsp)
	movq	-80(%rsp), %r13
	addl	%r11d, -112(%rsp)
	addq	$1, %rdi
	addl	%r10d, -108(%rsp)
	addl	%r9d, -104(%rsp)
	addl	%ecx, -100(%rsp)
	addl	%ebp, -96(%rsp)
	addl	%ebx, -92(%rsp)
	cmpq	%rdi, -72(%rsp)
	jne	.L197
	movl	-92(%rsp), %eax
	movl	-120(%rsp), %edx
	movq	%r13, %rdi
	movl	%eax, -28(%rsp)
	movl	-96(%rsp), %eax
	movl	%eax, -32(%rsp)
	movl	-100(%rsp), %eax
	movl	%eax, -36(%rsp)
	movl	-104(%rsp), %eax
	movl	%eax, -40(%rsp)
	movl	-108(%rsp), %eax
	movl	%eax, -44(%rsp)
	movl	-112(%rsp), %eax
	movl	%eax, -48(%rsp)
	movl	-116(%rsp), %eax
	movl	%eax, -52(%rsp)
.L198:
	movl	-120(%rsp), %ecx
	xorl	%eax, %eax
	jmp	.L205
	.p2align 4,,10
	.p2align 3
.L213:
	movl	-56(%rsp,%rax), %ecx
.L205:
	movl	%ecx, 400(%rdi,%rax)
	addq	$4, %rax
	cmpq	$32, %rax
	jne	.L213
	addq	$232, %rsp
	movq	%rdx, %rax
	popq	%rbx
	popq	%rbp
	popq	%r12
	popq	%r13
	popq	%r14
	popq	%r15
	ret
.L211:
	movl	$1779033703, -120(%rsp)
	movl	$1779033703, %edx
	jmp	.L198
	.p2align 4
	.globl	p_compare
	.globl p_compare
p_compare:
	pushq	%rbx
	movq	%rsi, %r9
	movq	%rdi, %rbx
	xorl	%eax, %eax
	.p2align 4,,10
	.p2align 3
.L215:
	movq	%rax, %rdx
	imulq	%rax, %rdx
	shrq	$3, %rdx
	movb	%dl, (%r9,%rax)
	addq	$1, %rax
	cmpq	$256, %rax
	jne	.L215
	testq	%rbx, %rbx
	je	.L220
	xorl	%r11d, %r11d
	xorl	%r10d, %r10d
	jmp	.L219
	.p2align 4,,10
	.p2align 3
.L217:
	leaq	2(%r10), %rdx
	cmove	%rdx, %r10
	addq	$1, %r11
	cmpq	%r11, %rbx
	je	.L214
.L219:
	leaq	(%r11,%r11,4), %rsi
	movq	%r11, %rdi
	movq	%r11, %rdx
	andl	$63, %esi
	andl	$63, %edi
	andl	$31, %edx
	addq	%r9, %rsi
	addq	%r9, %rdi
	call	p_cmp
	leaq	(%r10,%r10,2), %rdx
	movslq	%eax, %r10
	addq	%rdx, %r10
	testl	%eax, %eax
	jns	.L217
	xorq	%r11, %r10
	addq	$1, %r11
	cmpq	%r11, %rbx
	jne	.L219
.L214:
	movq	%r10, %rax
	popq	%rbx
	ret
.L220:
	xorl	%r10d, %r10d
	popq	%rbx
	movq	%r10, %rax
	ret
	.p2align 4
	.globl	p_sort
	.globl p_sort
p_sort:
	pushq	%rbp
	movq	%rdi, %rdx
	movq	%rsi, %rdi
	pushq	%rbx
	subq	$8, %rsp
	testq	%rdx, %rdx
	je	.L225
	movq	%rsi, %rbx
	leaq	(%rsi,%rdx,4), %rbp
	movq	%rsi, %rcx
	movl	$12345, %eax
	.p2align 4,,10
	.p2align 3
.L226:
	imull	$1103515245, %eax, %eax
	addq	$4, %rcx
	addl	$12345, %eax
	movl	%eax, -4(%rcx)
	cmpq	%rbp, %rcx
	jne	.L226
	subq	$1, %rdx
	xorl	%esi, %esi
	call	p_qs
	xorl	%eax, %eax
	.p2align 4,,10
	.p2align 3
.L229:
	movq	%rax, %rdx
	addq	$4, %rbx
	salq	$5, %rdx
	subq	%rax, %rdx
	movslq	-4(%rbx), %rax
	addq	%rdx, %rax
	cmpq	%rbp, %rbx
	jne	.L229
	addq	$8, %rsp
	popq	%rbx
	popq	%rbp
	ret
	.p2align 4,,10
	.p2align 3
.L225:
	movq	$-1, %rdx
	xorl	%esi, %esi
	call	p_qs
	addq	$8, %rsp
	xorl	%eax, %eax
	popq	%rbx
	popq	%rbp
	ret
	.p2align 4
	.globl	p_callback
	.globl p_callback
p_callback:
	pushq	%r12
	leaq	p_f0(%rip), %rax
	pushq	%rbp
	pushq	%rbx
	subq	$32, %rsp
	movq	%rax, (%rsp)
	leaq	p_f1(%rip), %rax
	movq	%rax, 8(%rsp)
	leaq	p_f2(%rip), %rax
	movq	%rax, 16(%rsp)
	leaq	p_f3(%rip), %rax
	movq	%rax, 24(%rsp)
	testq	%rdi, %rdi
	je	.L237
	movq	%rdi, %rbp
	xorl	%ebx, %ebx
	movl	$1, %edi
	movq	%rsp, %r12
	.p2align 4,,10
	.p2align 3
.L236:
	movq	%rbx, %rax
	movq	%rbx, %rsi
	addq	$1, %rbx
	andl	$3, %eax
	leaq	(%r12,%rax,8), %rax
	movq	(%rax), %rax
	call	*%rax
	movq	%rax, %rdi
	cmpq	%rbx, %rbp
	jne	.L236
	addq	$32, %rsp
	movq	%rdi, %rax
	popq	%rbx
	popq	%rbp
	popq	%r12
	ret
	.p2align 4,,10
	.p2align 3
.L237:
	addq	$32, %rsp
	movl	$1, %edi
	popq	%rbx
	movq	%rdi, %rax
	popq	%rbp
	popq	%r12
	ret
	.p2align 4
	.globl	p_bits
	.globl p_bits
p_bits:
	movq	%rdi, %r9
	cmpq	$1, %rdi
	jbe	.L250
	movl	$32, %r8d
	movl	$7, %edx
	xorl	%esi, %esi
	xorl	%eax, %eax
	movabsq	$81985529216486895, %rdi
	movl	$1, %ecx
	movabsq	$-1167088121787636991, %r11
	movq	%rdi, %r10
	jmp	.L249
	.p2align 4,,10
	.p2align 3
.L255:
	xorl	%esi, %esi
	movq	%rdi, %r11
	rep bsfq	%rdi, %rsi
	bsrq	%rdi, %rdx
	xorl	%r8d, %r8d
	bswap	%r11
	xorl	$63, %edx
	popcntq	%rdi, %r8
.L249:
	leal	(%rsi,%rsi,2), %esi
	addl	%edx, %esi
	movslq	%esi, %rsi
	addq	%rax, %rsi
	xorq	%r11, %rsi
	rolq	%cl, %rsi
	movq	%rsi, %rax
	mulq	%rdi
	addq	%rdx, %rsi
	testb	$64, %cl
	jne	.L242
	movl	$1, %eax
.L242:
	subq	%rax, %rsi
	movslq	%r8d, %rax
	xorq	%rsi, %rax
	movq	%rax, %rdx
	addq	%rdi, %rdx
	jc	.L253
.L245:
	movq	%rcx, %rdx
	movq	%rdi, %rsi
	salq	$30, %rdx
	sarq	$20, %rsi
	imulq	%rsi, %rdx
	jo	.L254
.L248:
	addq	$1, %rcx
	addq	%r10, %rdi
	cmpq	%rcx, %r9
	jne	.L255
	ret
	.p2align 4,,10
	.p2align 3
.L250:
	xorl	%eax, %eax
	ret
.L253:
	xorq	$77, %rax
	jmp	.L245
.L254:
	addq	$5, %rax
	jmp	.L248
	.p2align 4
	.globl	p_goto
	.globl p_goto
p_goto:
	testq	%rdi, %rdi
	je	.L263
	xorl	%edx, %edx
	movl	$1, %ecx
.L258:
	movq	%rdx, %rax
	andl	$31, %eax
	movzbl	(%rsi,%rax), %eax
	imulq	%rdx, %rax
	andl	$7, %eax
	cmpq	$1, %rax
	je	.L259
	cmpq	$2, %rax
	je	.L260
	testq	%rax, %rax
	je	.L274
	subq	$7, %rcx
	addq	$2, %rdx
.L262:
	cmpq	%rdi, %rdx
	jb	.L258
	movq	%rcx, %rax
	ret
	.p2align 4,,10
	.p2align 3
.L274:
	addq	%rdx, %rcx
.L259:
	leaq	(%rdx,%rdx,2), %rax
	addq	$1, %rdx
	xorq	%rax, %rcx
	testb	$1, %cl
	je	.L262
.L260:
	leaq	1(%rcx,%rcx,4), %rcx
	addq	$1, %rdx
	testb	$4, %cl
	jne	.L259
	jmp	.L262
	.p2align 4,,10
	.p2align 3
.L263:
	movl	$1, %ecx
	movq	%rcx, %rax
	ret
	.align 32
K:
	.long	1116352408
	.long	1899447441
	.long	-1245643825
	.long	-373957723
	.long	961987163
	.long	1508970993
	.long	-1841331548
	.long	-1424204075
	.long	-670586216
	.long	310598401
	.long	607225278
	.long	1426881987
	.long	1925078388
	.long	-2132889090
	.long	-1680079193
	.long	-1046744716
	.long	-459576895
	.long	-272742522
	.long	264347078
	.long	604807628
	.long	770255983
	.long	1249150122
	.long	1555081692
	.long	1996064986
	.long	-1740746414
	.long	-1473132947
	.long	-1341970488
	.long	-1084653625
	.long	-958395405
	.long	-710438585
	.long	113926993
	.long	338241895
	.long	666307205
	.long	773529912
	.long	1294757372
	.long	1396182291
	.long	1695183700
	.long	1986661051
	.long	-2117940946
	.long	-1838011259
	.long	-1564481375
	.long	-1474664885
	.long	-1035236496
	.long	-949202525
	.long	-778901479
	.long	-694614492
	.long	-200395387
	.long	275423344
	.long	430227734
	.long	506948616
	.long	659060556
	.long	883997877
	.long	958139571
	.long	1322822218
	.long	1537002063
	.long	1747873779
	.long	1955562222
	.long	2024104815
	.long	-2067236844
	.long	-1933114872
	.long	-1866530822
	.long	-1538233109
	.long	-1090935817
	.long	-965641998
	.globl programs_end
programs_end:
