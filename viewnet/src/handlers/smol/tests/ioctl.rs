//! Requests, and socketcall.

use super::*;
use crate::handlers::smol::unpack;

fn argument(abi: Abi, request: u64, address: u64, target: &mut Pretend) -> Result<Vec<u8>, Errno> {
    match ask_as(abi, "ioctl", &[3, request, address], target) {
        Ok(Ask { call: SocketCall::Ioctl { argument, .. }, .. }) => Ok(argument),
        Err(Stop::Fail(errno)) => Err(errno),
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_argument_has_its_size() {
    let mut target = Pretend { memory: (0..100).collect(), ..Pretend::default() };
    for (request, size) in [
        (0x8913, 40),
        (0x8933, 40),
        (0x8914, 40),
        (0x8953, 68),
        (0x8982, 56),
        (0x5411, 0),
        (0x8905, 0),
        (0x8906, 0),
        (0x8916, 40),
    ] {
        assert_eq!(argument(Abi::Native, request, BASE, &mut target).unwrap().len(), size, "{request:#x}");
    }
    // A struct in6_ifreq is shorter than a struct ifreq, and may end where the memory does.
    assert_eq!(argument(Abi::Native, 0x8916, BASE + 76, &mut target).unwrap().len(), 24);
    assert_eq!(argument(Abi::Native, 0x8916, BASE + 77, &mut target), Err(Errno::EFAULT));
    assert_eq!(argument(Abi::Native, 0x8913, BASE + 61, &mut target), Err(Errno::EFAULT));
    // Of requests that few know, as much as there is.
    for request in [0x894c, 0x89e0, 0x89f0, 0x8b01] {
        assert_eq!(argument(Abi::Native, request, 0, &mut target), Ok(vec![]), "{request:#x}");
        assert_eq!(argument(Abi::Native, request, BASE + 90, &mut target).unwrap().len(), 40);
    }
    let narrow = argument(Abi::I386, 0x8913, BASE + 68, &mut target).unwrap();
    assert_eq!((&narrow[..32], &narrow[32..]), (&target.memory[68..], &[0; 8][..]));
}

#[test]
fn what_comes_back_is_no_longer_than_what_went() {
    for (abi, size) in [(Abi::Native, 40), (Abi::I386, 32)] {
        let mut target = Pretend { memory: vec![0; 50], ..Pretend::default() };
        let mut ask = ask_as(abi, "ioctl", &[3, 0x8913, BASE], &mut target).unwrap();
        assert_eq!(ask.give.give(&Done::Bytes(vec![1; 44]), &mut target), Ok(Given::Value(0)));
        assert_eq!(target.memory.iter().filter(|byte| **byte == 1).count(), size);
    }
    let mut target = Pretend { memory: vec![0; 4], ..Pretend::default() };
    let mut ask = ask("ioctl", &[3, 0x5411, BASE], &mut target).unwrap();
    assert_eq!(ask.give.give(&Done::Bytes(vec![1; 4]), &mut target), Ok(Given::Value(0)));
    assert_eq!(target.memory, [1; 4]);
    let mut ask = ask_as(Abi::Native, "ioctl", &[3, 0x5411, 8], &mut target).unwrap();
    assert_eq!(ask.give.give(&Done::Bytes(vec![1; 4]), &mut target), Err(Errno::EFAULT));
}

#[test]
fn a_list_of_interfaces_is_cut_to_whole_records() {
    let list = |count: u8| {
        let mut bytes = (u32::from(count) * 40).to_ne_bytes().to_vec();
        (0..count).for_each(|n| bytes.extend([n + 1; 40]));
        Done::Bytes(bytes)
    };
    let mut memory = Memory::default();
    let buffer = memory.put(&[0; 100]);
    let conf = memory.words(&[99, buffer]);
    let narrow = memory.put(&[70u32.to_ne_bytes(), (buffer as u32).to_ne_bytes()].concat());
    let length_only = memory.words(&[0, 0]);
    let negative = memory.words(&[NEGATIVE, buffer]);
    let mut target = memory.program();
    assert_eq!(argument(Abi::Native, 0x8912, conf, &mut target), Ok(80u32.to_ne_bytes().to_vec()));
    let mut ask1 = ask("ioctl", &[3, 0x8912, conf], &mut target).unwrap();
    assert_eq!(ask1.give.give(&list(2), &mut target), Ok(Given::Value(0)));
    assert_eq!((number(&target, conf), at(&target, buffer, 81)[79..].to_vec()), (80, vec![2, 0]));
    let mut ask2 = ask_as(Abi::I386, "ioctl", &[3, 0x8912, narrow], &mut target).unwrap();
    assert_eq!(ask2.call, SocketCall::Ioctl { request: 0x8912, argument: 80u32.to_ne_bytes().to_vec() });
    assert_eq!(ask2.give.give(&list(2), &mut target), Ok(Given::Value(0)));
    assert_eq!((number(&target, narrow), at(&target, buffer, 33)[31..].to_vec()), (64, vec![1, 2]));
    let mut ask3 = ask("ioctl", &[3, 0x8912, length_only], &mut target).unwrap();
    assert_eq!(ask3.give.give(&list(5), &mut target), Ok(Given::Value(0)));
    assert_eq!(number(&target, length_only), 200);
    assert_eq!(argument(Abi::Native, 0x8912, negative, &mut target), Err(Errno::EINVAL));
    assert_eq!(ask3.give.give(&Done::Bytes(vec![0; 3]), &mut target), Err(Errno::EIO));
}

#[test]
fn a_route_comes_with_the_name_of_its_device() {
    let mut memory = Memory::default();
    let device = memory.put(b"eth0\0rest.............");
    let mut entry = vec![6; 120];
    entry[88..96].copy_from_slice(&device.to_ne_bytes());
    let route = memory.put(&entry);
    entry[88..96].fill(0);
    let bare = memory.put(&entry);
    let mut narrow = vec![0; 84];
    narrow[4..20].fill(1);
    narrow[20..36].fill(2);
    narrow[52..54].fill(3);
    narrow[64..66].fill(4);
    narrow[68..72].copy_from_slice(&(device as u32).to_ne_bytes());
    narrow[72..76].fill(5);
    let narrow = memory.put(&narrow);
    // A struct in6_rtmsg at the end of memory.
    let six = memory.put(&[8; 80]);
    let mut target = memory.program();
    let name = |route: Vec<u8>| route[120..].to_vec();
    assert_eq!(
        name(argument(Abi::Native, 0x890b, route, &mut target).unwrap()),
        b"eth0\0\0\0\0\0\0\0\0\0\0\0\0"
    );
    assert_eq!(name(argument(Abi::Native, 0x890c, bare, &mut target).unwrap()), [0; 16]);
    let short = argument(Abi::Native, 0x890b, six, &mut target).unwrap();
    assert_eq!((short.len(), &short[..80], &short[80..]), (136, &[8; 80][..], &[0; 56][..]));
    let wide = argument(Abi::I386, 0x890b, narrow, &mut target).unwrap();
    assert_eq!((&wide[8..24], &wide[24..40], &wide[56..58]), (&[1; 16][..], &[2; 16][..], &[3; 2][..]));
    assert_eq!((&wide[80..82], &wide[96..100], &wide[120..124]), (&[4; 2][..], &[5; 4][..], &b"eth0"[..]));
    assert_eq!(argument(Abi::Native, 0x890b, 8, &mut target), Err(Errno::EFAULT));
}

#[test]
fn ethtool_s_data_goes_and_comes_with_its_request() {
    let mut memory = Memory::default();
    // ETHTOOL_GLINK, a struct ethtool_value.
    let data = memory.words(&[0x0a]);
    let mut ifreq = vec![0; 40];
    ifreq[..4].copy_from_slice(b"eth0");
    ifreq[16..24].copy_from_slice(&data.to_ne_bytes());
    let request = memory.put(&ifreq);
    ifreq[16..24].fill(0);
    let null = memory.put(&ifreq);
    let mut target = memory.program();
    let mut ask = ask("ioctl", &[3, 0x8946, request], &mut target).unwrap();
    let SocketCall::Ioctl { argument: sent, .. } = &ask.call else { panic!("{ask:?}") };
    assert_eq!((sent.len(), sent[40]), (48, 0x0a));
    let mut answer = sent.clone();
    answer[44] = 1;
    assert_eq!(ask.give.give(&Done::Bytes(answer), &mut target), Ok(Given::Value(0)));
    assert_eq!(at(&target, data, 8)[4], 1);
    assert_eq!(argument(Abi::Native, 0x8946, null, &mut target), Err(Errno::EFAULT));
}

#[test]
fn socketcall_is_the_call_that_it_names() {
    let mut memory = Memory::default();
    let words = |memory: &mut Memory, words: &[u32]| {
        memory.put(&words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<_>>())
    };
    let six = words(&mut memory, &[3, 0x1000, 5, 0, 0x2000, 16]);
    let plain = words(&mut memory, &[3, 0x1000, 5, 0]);
    let urgent = words(&mut memory, &[3, 0x1000, 5, libc::MSG_OOB as u32]);
    let mut target = memory.program();
    let mut unpacked = |number: u64, at: u64| {
        let args = [number, at, 0, 0, 0, 0];
        let mut call = Call { abi: Abi::I386, args, target: &mut target, caller: &mut Thread::default() };
        unpack(&mut call).map(|row| (row.map(|row| row.name), call.args))
    };
    let args = [3, 0x1000, 5, 0, 0x2000, 16];
    assert_eq!(unpacked(11, six), Ok((Some("sendto"), args)));
    assert_eq!(unpacked(2, six), Ok((Some("bind"), [3, 0x1000, 5, 0, 0, 0])));
    assert_eq!(unpacked(5, six), Ok((Some("accept"), [3, 0x1000, 5, 0, 0, 0])));
    assert_eq!(unpacked(19, six).unwrap().0, Some("recvmmsg"));
    // What the filter would not trap as a call of its own is the kernel's; what is no call, too.
    assert_eq!(unpacked(9, plain).unwrap().0, None);
    assert_eq!(unpacked(9, urgent).unwrap().0, Some("sendto"));
    for number in [0, 1, 8, 21, u64::MAX] {
        assert_eq!(unpacked(number, six).unwrap().0, None, "{number}");
    }
    assert_eq!(unpacked(2, 8), Err(Stop::Fail(Errno::EFAULT)));
}
